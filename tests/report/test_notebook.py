"""What notebooks show of models: facts counted by hand, names as text, nothing read and nothing secret."""

import warnings
from html.parser import HTMLParser

import nbclient
import nbformat
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import sklearn
from browser import open_page
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_html_repr

from daskglm import FirstLevelModel, SecondLevelModel
from daskglm.report.viewer import view

HOSTILE = "<script>alert(1)</script>"
AFFINE = np.diag([-3.0, 3, 4, 1])


class Page(HTMLParser):
    """Rows of the tables of a page, and its tags."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.links, self.inside = [], set(), [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.inside = True
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data

    @property
    def facts(self):
        return dict(self.rows)


def shown(model):
    return Page(model._repr_mimebundle_()["text/html"])


@pytest.fixture
def subject(tmp_path):
    """Two runs, of 30 and 40 volumes, in a mask of 24 voxels of 2 x 3 x 4."""
    rng, runs, designs = np.random.default_rng(0), [], []
    for run, n in enumerate((30, 40)):
        path = tmp_path / f"run-{run + 1}_bold.nii.gz"
        nib.Nifti1Image(rng.normal(100, 1, (2, 3, 4, n)), AFFINE).to_filename(path)
        runs.append(str(path))
        designs.append(pd.DataFrame({"go": rng.standard_normal(n), HOSTILE: rng.standard_normal(n), "constant": 1.0}))
    return runs, designs


@pytest.fixture
def first_level(subject):
    model = FirstLevelModel(mask_img=False, noise_model="ols", subject_label=HOSTILE)
    return model.fit(subject[0], design_matrices=subject[1])


def test_first_level(first_level):
    page = shown(first_level)
    assert page.facts["runs"] == "2 of 30, 40 volumes"
    assert page.facts["design"] == f"3 regressors: go, {HOSTILE}, constant"
    assert page.facts["voxels"] == "24 of 2 x 3 x 4, 3 x 3 x 4 mm"
    assert page.facts["chunks"] == "1 of up to 24 voxels"
    assert page.facts["subject"] == HOSTILE
    assert page.facts["set"] == f"mask_img=False, noise_model='ols', subject_label='{HOSTILE}'"
    assert page.facts["hrf_model"] == "'glover'"
    assert "script" not in page.tags
    assert set(first_level.get_params()) < set(page.facts)


def test_runs_with_designs_of_their_own(subject):
    runs, designs = subject
    designs[1] = designs[1].assign(twice=2 * designs[1]["go"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FirstLevelModel(mask_img=False, noise_model="ols").fit(runs, design_matrices=designs)
    facts = shown(model).facts
    assert facts["design of run 1"].startswith("3 regressors")
    assert facts["design of run 2"].endswith("constant, twice")
    assert "not alone" not in facts["contrasts of run 1"]
    # "go" and "twice" are one another's multiple: neither is determined by the data.
    assert facts["contrasts of run 2"].endswith("not alone: go, twice")


def test_second_level_of_a_formula(gappy):
    model = SecondLevelModel(mask_img=gappy.mask_img)
    model.fit(gappy.paths, gappy.table_path, formula="~ age + C(sex)")
    page = shown(model)
    assert page.facts["images"] == "12"
    assert page.facts["formula"] == "~ age + C(sex)"
    assert page.facts["design"] == "3 regressors: intercept, age, C(sex)[T.M]"
    # Four of the twelve lack part of the brain, and the first of them one voxel more, where it alone is missing.
    assert page.facts["observations"] == "8 to 12 a voxel"
    assert page.facts["voxels"] == "90 of 7 x 8 x 5, 3 x 3 x 4 mm"
    assert page.facts["contrasts"] == "expressions of regressors, such as intercept or intercept - age"
    assert page.rows[-1] == ["verbose", "0"]


def test_terms_of_several_columns_are_tested_by_f(cohort):
    cohort.table["site"] = ["a", "b", "c"] * 4
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, cohort.table, formula="~ site")
    assert "site (F)" in shown(model).facts["contrasts"]
    assert model.compute_contrast("site").shape == cohort.mask.shape


def test_second_level_of_models(subject):
    runs, designs = subject
    models = [
        FirstLevelModel(mask_img=False, noise_model="ols", subject_label=f"sub-{k}").fit(run, design_matrices=design)
        for k, (run, design) in enumerate(zip(runs * 2, designs * 2, strict=True))
    ]
    model = SecondLevelModel(mask_img=False).fit(models)
    facts = shown(model).facts
    assert facts["images"] == "4"
    assert facts["contrasts"] == "name a first_level_contrast, whose maps are then fitted"
    assert "chunks" not in facts
    model.compute_contrast("intercept", first_level_contrast="go")
    facts = shown(model).facts
    assert facts["images"] == "4 of each first-level contrast: go"
    assert facts["contrasts"] == "expressions of regressors, such as intercept"


def test_not_fitted():
    model = SecondLevelModel(smoothing_fwhm=5)
    html = model._repr_html_()
    assert "SecondLevelModel, not fitted" in html
    assert Page(html).rows[0] == ["set", "smoothing_fwhm=5"]
    assert repr(model) == "SecondLevelModel(smoothing_fwhm=5)"
    assert model._repr_mimebundle_()["text/plain"] == repr(model)


def test_text_where_scikit_learn_is_set_to_text():
    with sklearn.config_context(display="text"):
        assert not hasattr(SecondLevelModel(), "_repr_html_")
        assert set(SecondLevelModel()._repr_mimebundle_()) == {"text/plain"}


def test_showing_reads_no_image(first_level, subject, monkeypatch):
    monkeypatch.setattr("daskglm.models.first_level.read_run", lambda _: pytest.fail("a run was read"))
    assert shown(first_level).facts
    # scikit-learn's diagram shows attributes, of which residuals_ is one.
    assert "FirstLevelModel" in estimator_html_repr(make_pipeline(first_level))


def test_no_secrets():
    model = SecondLevelModel(memory="s3://me:hidden-word@bucket/cache?X-Amz-Signature=abcdef")
    assert "hidden-word" not in model._repr_html_()
    assert "abcdef" not in model._repr_html_()


class Client:
    """A client of a scheduler without a dashboard."""

    @property
    def dashboard_link(self):
        raise KeyError("dashboard")


def test_no_dashboard(monkeypatch):
    monkeypatch.setattr("daskglm.graph.compute._active_client", Client)
    assert not shown(SecondLevelModel()).links


def test_dashboard():
    from distributed import Client

    assert not shown(SecondLevelModel()).links
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        assert shown(SecondLevelModel()).links == [client.dashboard_link]
    assert not shown(SecondLevelModel()).links


def test_viewer_in_a_browser(tmp_path):
    grid = np.indices((20, 24, 20)).transpose(1, 2, 3, 0)
    ball = np.maximum(0, 9 - np.linalg.norm(grid - [10, 12, 10], axis=-1))
    viewer = view(nib.Nifti1Image(ball, np.diag([4.0, 4, 4, 1])), 1, bg_img=None, title=HOSTILE)
    (tmp_path / "whole.html").write_text(viewer.html)
    (tmp_path / "framed.html").write_text(f"<!DOCTYPE html><html><body>{viewer._repr_html_()}</body></html>")
    pixels = "() => document.querySelector('canvas').toDataURL()"
    for theme in ("light", "dark"):
        with open_page(tmp_path / "whole.html", theme=theme) as (page, faults):
            page.wait_for_timeout(300)
            before = page.evaluate(pixels)
            page.mouse.click(60, 90)
            page.wait_for_timeout(300)
            assert page.evaluate(pixels) != before
            assert page.title().endswith(HOSTILE)
            assert page.get_by_role("img", name=f"slices of {HOSTILE}").count() == 1
            assert page.get_by_role("slider", name="opacity of the map").count() == 1
            assert [fault for fault in faults if "willReadFrequently" not in fault] == []
    with open_page(tmp_path / "framed.html") as (page, faults):
        page.wait_for_timeout(300)
        assert page.frames[1].evaluate(pixels).startswith("data:image/png")
        assert faults == []


def test_in_a_notebook(cohort, tmp_path):
    cells = [
        "import daskglm, pandas as pd",
        f"model = daskglm.SecondLevelModel(mask_img=False)\nmodel.fit({cohort.paths!r}, "
        f"design_matrix=pd.DataFrame({{{HOSTILE!r}: range(12), 'intercept': 1.0}}))",
        "maps = daskglm.compute_contrasts(model.fits_[None], {'mean': 'intercept'})\nmaps.glm",
        "maps",
        "maps.glm.view('z_score', contrast='mean', bg_img=None)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    html = [cell.outputs[-1]["data"]["text/html"] for cell in notebook.cells[1:]]
    assert "SecondLevelModel, fitted" in html[0]
    assert Page(html[0]).facts["design"] == f"2 regressors: {HOSTILE}, intercept"
    assert Page(html[1]).facts["contrasts"] == "mean (t)"
    assert "xr-wrap" in html[2]  # xarray's own
    assert html[3].startswith("<iframe srcdoc=")
    assert not any(HOSTILE in page for page in html)
