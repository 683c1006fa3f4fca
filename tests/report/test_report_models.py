"""Reports of fitted models: what they hold, and that an outsider finds the same numbers."""

import inspect
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from browser import check_page
from cohorts import AFFINE, Cohort
from nilearn.glm.first_level import FirstLevelModel as NilearnFirstLevelModel
from nilearn.glm.second_level import SecondLevelModel as NilearnSecondLevelModel
from nilearn.reporting import get_clusters_table
from report_pages import Page
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.outliers_influence import OLSInfluence, variance_inflation_factor

from daskglm import FirstLevelModel, SecondLevelModel
from daskglm.report.of_models import named_contrasts

HOSTILE = "<script>alert(1)</script>"
CONTRASTS = {HOSTILE: "age", "both": ["age", HOSTILE]}
THRESHOLD = 1.5


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve subjects; a third of them lacks part of the brain."""
    return Cohort(tmp_path_factory.mktemp("maps"), 12, np.float32, holes=True)


@pytest.fixture(scope="module")
def design(cohort):
    names = [f"<img src=x onerror=alert({k})>" for k in range(12)]
    return cohort.design.rename(columns={"male": HOSTILE}).set_axis(names)


@pytest.fixture(scope="module")
def model(cohort, design):
    images = pd.Series(cohort.paths, index=design.index)
    return SecondLevelModel(mask_img=cohort.mask_img).fit(images, design_matrix=design)


@pytest.fixture(scope="module")
def report(model):
    return model.generate_report(
        CONTRASTS, title="A & B", threshold=THRESHOLD, height_control=None, two_sided=True, bg_img=None
    )


@pytest.fixture(scope="module")
def page(report):
    return Page(report.html)


def test_sections(page):
    assert list(page.sections)[1:] == [
        "A & B", "Methods", "Design", "Coverage", "Contrasts", HOSTILE, "both", "Self-check", "Warnings",
        "How it was made", "Works cited",
    ]  # fmt: skip
    assert len(page.images["Design"]) == 3
    assert len(page.images[HOSTILE]) == 3
    assert all(alt for alts in page.images.values() for alt in alts)


def test_numbers_of_the_design(page, design):
    columns = list(design.columns)
    expected = {
        name: variance_inflation_factor(design.to_numpy(), columns.index(name))
        for name in columns
        if name != "intercept"
    }
    found = page.numbers("Variance inflation factors", "Variance inflation factor")
    assert set(found.index) == {"age", HOSTILE}
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=1e-3)
    hat = OLSInfluence(OLS(np.zeros(12), design.to_numpy()).fit()).hat_matrix_diag
    highest = pd.Series(hat, index=design.index).sort_values(ascending=False).head(5)
    found = page.numbers("Rows of highest leverage", "Leverage")
    assert list(found.index) == list(highest.index)
    np.testing.assert_allclose(found, highest, rtol=1e-3)


def test_coverage(page, cohort):
    n = np.isfinite(cohort.vectors).sum(axis=0)
    text = page.sections["Coverage"]
    assert f"{n.size} voxels, of which {(n == 12).sum()} have all 12 images" in text
    assert f"from {n.min()} to {n.max()}" in text


def test_clusters(page, model):
    z = model.compute_contrast("age")
    z = nib.Nifti1Image(np.nan_to_num(z.get_fdata()), z.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = get_clusters_table(z, THRESHOLD, two_sided=True)
    # Peaks within a cluster are daskglm's own rule; clusters are the rows with a size.
    expected = expected[expected["Cluster Size (mm3)"] != ""]
    found = page.table(f"Clusters of {HOSTILE}")
    found = found[found["Size (mm³)"] != ""]
    np.testing.assert_allclose(found.iloc[:, 1:4].astype(float), expected[["X", "Y", "Z"]].astype(float))
    np.testing.assert_allclose(found["Peak z"].astype(float), expected["Peak Stat"].astype(float), rtol=1e-3)
    assert list(found["Size (mm³)"].str.replace(",", "").astype(int)) == list(expected["Cluster Size (mm3)"])


def test_f_is_one_sided(page):
    assert "|z|" in " ".join(page.images[HOSTILE])
    assert "|z|" not in " ".join(page.images["both"])


def test_hostile_names_are_text(page, report):
    assert page.scripts == 1
    assert "<img src=x" not in report.html
    assert HOSTILE in page.sections["Methods"]


def test_self_check(page):
    table = page.table("Largest difference from the maps")
    assert list(table["Contrast"]) == [HOSTILE, "both"]
    # F has no effect to compare.
    assert table["Effect"][1] == ""
    numbers = page.all_numbers("Largest difference from the maps")
    assert len(numbers) == 5
    assert max(numbers) < 1e-6
    assert "20 voxels" in page.sections["Self-check"]
    assert "Do not use" not in page.sections["Self-check"]


def test_self_check_finds_a_wrong_fit(cohort, design):
    images = pd.Series(cohort.paths, index=design.index)
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(images, design_matrix=design)
    # The images change after the fit.
    changed = [nib.Nifti1Image(values * np.float32(1.01), AFFINE) for values in cohort.data]
    model.second_level_input_ = pd.Series(changed, index=design.index)
    page = Page(model.generate_report("age", plot_type="glass", bg_img=None).html)
    effect = page.numbers("Largest difference from the maps", "Effect")["age"]
    assert effect == pytest.approx(0.01 / 1.01, rel=1e-2)
    assert "Do not use the maps" in page.sections["Self-check"]


def test_self_check_says_why_not(cohort, tmp_path):
    moved = [tmp_path / path.rsplit("/", 1)[1] for path in cohort.paths]
    for path, values in zip(moved, cohort.data, strict=True):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    model = SecondLevelModel(mask_img=cohort.mask_img).fit(list(map(str, moved)), design_matrix=cohort.design)
    moved[0].unlink()
    page = Page(model.generate_report("age", plot_type="glass", bg_img=None).html)
    assert "No voxel was fitted again: the images cannot be read again" in page.sections["Self-check"]


def test_without_contrasts(model):
    page = Page(model.generate_report(bg_img=None).html)
    assert "Contrasts" not in page.sections
    assert "Self-check" not in page.sections


def test_in_a_browser(report, tmp_path):
    report.save_as_html(tmp_path / "report.html")
    check_page(tmp_path / "report.html")


@pytest.fixture(scope="module")
def first_level():
    """Two runs of forty volumes."""
    rng = np.random.default_rng(3)
    runs = [nib.Nifti1Image(500 + 5 * rng.standard_normal((4, 4, 4, 40)), np.diag([3.0, 3, 3, 1])) for _ in range(2)]
    events = pd.DataFrame({"onset": np.arange(4, 72, 8.0), "duration": 2.0, "trial_type": list("ababababa")})
    mask = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([3.0, 3, 3, 1]))
    return FirstLevelModel(t_r=2.0, mask_img=mask, subject_label=HOSTILE).fit(runs, events=[events, events])


def test_first_level(first_level):
    report = first_level.generate_report(["a - b", "a, b"], bg_img=None, report_dims=(900, 500))
    page = Page(report.html)
    assert list(page.sections)[1:] == [
        "First-level model", "Methods", "Design", "Voxels", "Runs and motion", "Contrasts", "a - b", "a, b",
        "Self-check", "Warnings", "How it was made", "Works cited",
    ]  # fmt: skip
    assert page.scripts == 1
    assert list(page.table("Runs")["volumes"]) == ["40", "40"]
    assert "64 voxels" in page.sections["Voxels"]
    assert "autoregressive of order 1" in page.sections["Methods"]
    assert "worsley1995" in page.sections["Works cited"]
    numbers = page.all_numbers("Largest difference from the maps")
    assert len(numbers) == 5
    assert max(numbers) < 1e-6
    assert 'width="900" height="500"' in report._repr_html_()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(FirstLevelModel, NilearnFirstLevelModel), (SecondLevelModel, NilearnSecondLevelModel)]
)
def test_parameters_are_those_of_nilearn(ours, theirs):
    expected = inspect.signature(theirs.generate_report).parameters
    found = inspect.signature(ours.generate_report).parameters
    wanted = {name: item.default for name, item in expected.items() if name != "report_dims"}
    assert [(name, found[name].default) for name in found if name in wanted] == list(wanted.items())
    assert tuple(found["report_dims"].default) == tuple(expected["report_dims"].default)


def test_contrasts_in_all_forms():
    vector = np.array([1.0, 0.0])
    assert named_contrasts("a") == {"a": "a"}
    assert named_contrasts(["a", "b"]) == {"a": "a", "b": "b"}
    assert list(named_contrasts(vector)) == ["[1. 0.]"]
    assert list(named_contrasts([vector, [0, 1]])) == ["[1. 0.]", "[0, 1]"]
    assert named_contrasts({"x": "a"}) == {"x": "a"}
    assert named_contrasts(None) == {} == named_contrasts([])


def test_thresholds_are_told(model):
    page = Page(model.generate_report("age", alpha=0.01, height_control="fdr", plot_type="glass", bg_img=None).html)
    assert "false discovery rate of 0.01 (Benjamini & Hochberg, 1995), one-sided" in page.sections["Methods"]
    assert "benjamini1995" in page.sections["Works cited"]
    page = Page(model.generate_report("age", alpha=0.01, plot_type="glass", bg_img=None).html)
    assert "p < 0.01, uncorrected" in page.sections["Methods"]
    assert "benjamini1995" not in page.sections["Works cited"]
    level = stats.norm.isf(0.01)
    assert f"z ≥ {level:.3f}" in page.sections["age"] + " ".join(page.images["age"])


# What is given, what the methods say and what they do not.
MADE_OF = {
    "given": (
        {"design_matrices": True}, "those of the design matrices that were given: a, b, constant", "haemodynamic",
    ),
    "confounds": ({"confounds": True}, "its regressors are confounds, and cosine drifts up to 0.01 Hz", "events"),
    "fir": (
        {"events": True, "hrf_model": "fir", "fir_delays": [0, 2], "drift_model": None},
        "events modelled by a finite impulse response, at delays of 0, 2 volumes, and no drifts", "haemodynamic",
    ),
    "kernel": (
        {"events": True, "hrf_model": lambda t_r, oversampling: np.ones(3), "drift_model": "polynomial"},
        "events convolved with the responses given, and polynomial drifts of order 1", "glover",
    ),
    "no kernel": ({"events": True, "hrf_model": None}, "events as they last, not convolved, and cosine", "glover"),
    "volumes": ({"events": True, "signal_scaling": 1}, "percent of the mean of their volume", "of their voxel"),
    "all": (
        {"events": True, "confounds": True},
        "events convolved with the glover haemodynamic response, confounds, and cosine drifts up to 0.01 Hz", "given",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE_OF)
def test_methods_say_what_ran(case):
    given, said, not_said = MADE_OF[case]
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(100 + rng.standard_normal((3, 3, 3, 40)), np.diag([3.0, 3.0, 3.0, 1.0]))
    tables = {
        "events": pd.DataFrame({"onset": np.arange(2, 70, 8.0), "duration": 2.0, "trial_type": "a"}),
        "confounds": pd.DataFrame({"x": rng.standard_normal(40)}),
        "design_matrices": pd.DataFrame({"a": rng.standard_normal(40), "b": rng.standard_normal(40), "constant": 1.0}),
    }
    parameters = {name: value for name, value in given.items() if name not in tables}
    t_r = None if "design_matrices" in given else 2.0
    model = FirstLevelModel(t_r=t_r, mask_img=False, noise_model="ols", **parameters)
    model.fit(image, **{name: tables[name] for name in given if name in tables})
    methods = Page(model.generate_report(None, bg_img=None).html).sections["Methods"]
    assert said in methods
    assert not_said not in methods
