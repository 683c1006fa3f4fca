"""Reports of result folders, and the command line that writes them."""

import json
import re
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from browser import check_page
from click.testing import CliRunner
from cohorts import AFFINE, Cohort
from nilearn.reporting import get_clusters_table
from report_pages import Page
from statsmodels.stats.outliers_influence import variance_inflation_factor

import daskglm
from daskglm.cli.main import main
from daskglm.errors import MissingDependencyError, ParameterError

HOSTILE = "<script>alert(1)</script>"


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve subjects; a third of them lacks part of the brain."""
    return Cohort(tmp_path_factory.mktemp("maps"), 12, np.float32, holes=True)


@pytest.fixture(scope="module")
def common(cohort, tmp_path_factory):
    """Arguments of group and permute."""
    mask = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    nib.save(cohort.mask_img, mask)
    return [
        *cohort.paths, "--participants", cohort.table_path, "--formula", "~ age + sex", "--mask", mask, "--quiet",
        "--contrast", f"{HOSTILE}=age", "--f-contrast", "both=age, sex",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def group(common, tmp_path_factory):
    """The result folder of the command."""
    output = tmp_path_factory.mktemp("study") / "group"
    status, text = run("group", *common, "--output", output)
    assert status == 0, text
    assert f"report in {output}/report.html" in text
    return output


@pytest.fixture(scope="module")
def permuted(common, group):
    """A permutation analysis beside it, without a report."""
    output = group.parent / "permuted"
    status, text = run(
        "permute", *common, "--output", output, "--n-perm", 50, "--cluster-threshold", 0.05, "--no-report"
    )
    assert status == 0, text
    assert not (output / "report.html").exists()
    return output


@pytest.fixture(scope="module")
def group_page(group):
    return Page((group / "report.html").read_text())


@pytest.fixture(scope="module")
def permuted_page(permuted):
    assert run("report", permuted)[0] == 0
    return Page((permuted / "report.html").read_text())


def test_sections_of_group(group_page):
    assert list(group_page.sections)[1:] == [
        "Group analysis", "Methods", "Design", "Coverage", "Contrasts", HOSTILE, "both", "Self-check", "Warnings",
        "How it was made", "Works cited",
    ]  # fmt: skip
    assert group_page.scripts == 1
    methods = group_page.sections["Methods"]
    assert "12 images was fitted" in methods
    assert "from the formula ~ age + sex" in methods
    assert "fewer than 50% of the images" in methods
    assert f"daskglm {daskglm.__version__}" in methods
    made = group_page.sections["How it was made"]
    assert "daskglm group" in made
    assert "read and sum images" in list(group_page.table("Time of each stage")["Stage"])


def test_numbers_of_group(group_page, group):
    design = pd.read_csv(group / "design.tsv", sep="\t").set_index("participant_id")
    for name, value in group_page.numbers("Variance inflation", "Variance inflation factor").items():
        expected = variance_inflation_factor(design.to_numpy(), list(design.columns).index(name))
        assert value == pytest.approx(expected, rel=1e-3)
    assert max(group_page.all_numbers("Largest difference from the maps")) < 1e-6
    assert len(group_page.all_numbers("Largest difference from the maps")) == 5


def test_citations_are_whole_and_used(group_page, permuted_page):
    for page in (group_page, permuted_page):
        entries = {entry.split(",", 1)[0]: entry for entry in re.split(r"@\w+\{", page.sections["Works cited"])[1:]}
        assert {"daskglm", "friston1994", "nilearn", "dask", "xarray", "zarr"} <= set(entries)
        for key, entry in entries.items():
            assert entry.count("{") == entry.count("}") - 1
            assert "author = {" in entry
            assert "title = {" in entry
            assert key == "daskglm" or "doi = {10." in entry
    assert "winkler2014" not in group_page.sections["Works cited"]
    cited = permuted_page.sections["Works cited"]
    assert "freedman1983" in cited
    assert "winkler2014" in cited
    assert "smith2009" not in cited


def test_sections_of_permute(permuted_page, permuted):
    assert list(permuted_page.sections)[1:] == [
        "Permutation test", "Methods", "Design", "Coverage", "Contrasts", HOSTILE, "both", "Self-check", "Warnings",
        "How it was made", "Works cited",
    ]  # fmt: skip
    assert "50 random permutations" in permuted_page.sections["Methods"]
    # A null distribution each of the statistic, of cluster sizes and of masses.
    assert sum("Null distribution" in alt for alt in permuted_page.images[HOSTILE]) == 3
    thresholds = pd.read_csv(permuted / "thresholds.tsv", sep="\t")
    table = permuted_page.table("Permutation thresholds")
    np.testing.assert_allclose(table["5% threshold"].astype(float), thresholds["threshold"], rtol=1e-3)
    # Only the statistic has maps to compare.
    assert max(permuted_page.all_numbers("Largest difference from the maps")) < 1e-6


def test_clusters_of_permute(permuted_page, permuted):
    statistic, p = (
        np.nan_to_num(nib.load(next(permuted.glob(f"*both_stat-F{end}_statmap.nii.gz"))).get_fdata())
        for end in ("", "logpmax")
    )
    significant = np.where(p >= -np.log10(0.05) - 1e-6, statistic, 0)
    if not significant.any():
        assert "Nothing is significant" in permuted_page.sections["both"]
        return
    expected = get_clusters_table(nib.Nifti1Image(significant, AFFINE), 1e-6)
    found = permuted_page.table("Clusters of both")
    np.testing.assert_allclose(found["Peak F"].astype(float)[0], expected["Peak Stat"].astype(float)[0], rtol=1e-3)


def test_a_wrong_map_is_found(group, cohort, tmp_path):
    folder = tmp_path / "wrong"
    folder.mkdir()
    for path in group.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    path = next(folder.glob("*_stat-variance_statmap.nii.gz"))
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata() * 1.5, image.affine), path)
    page = Page(daskglm.generate_report(folder, plot_type="glass", bg_img=None).html)
    assert max(page.all_numbers("Largest difference from the maps")) == pytest.approx(0.5, rel=1e-3)
    assert "Do not use the maps" in page.sections["Self-check"]


def test_a_study_of_several(group, permuted_page):
    before = (group / "report.html").stat().st_mtime_ns
    status, text = run("report", group.parent)
    assert status == 0
    study = (group.parent / "study.html").read_text()
    assert 'href="group/report.html"' in study
    assert 'href="permuted/report.html"' in study
    assert (group / "report.html").stat().st_mtime_ns == before
    assert "study: " in text


def test_in_a_browser(group, permuted_page, permuted):
    check_page(permuted / "report.html")


def test_no_report_removes_an_old_one_of_ours(group, common, tmp_path):
    output = tmp_path / "out"
    assert run("group", *common, "--output", output)[0] == 0
    assert (output / "report.html").exists()
    assert run("group", *common, "--output", output, "--overwrite", "--no-report")[0] == 0
    assert not (output / "report.html").exists()
    (output / "report.html").write_text("somebody's own")
    assert run("group", *common, "--output", output, "--overwrite", "--no-report")[0] == 0
    assert (output / "report.html").read_text() == "somebody's own"


def test_an_analysis_outlives_its_report(common, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        # As where it is not installed.
        for name in [name for name in sys.modules if name.split(".")[0] == "nilearn"]:
            without.delitem(sys.modules, name)
        without.setitem(sys.modules, "nilearn", None)
        status, text = run("group", *common, "--output", tmp_path / "a")
        assert status == 0
        assert text.splitlines()[-1].startswith("daskglm: no report was made: brain pictures are drawn by nilearn")
        assert text.splitlines()[-1].endswith('pip install "daskglm[report]"')
        status, text = run("report", tmp_path / "a")
        assert status == 2
        assert "pip install" in text
        with pytest.raises(MissingDependencyError):
            daskglm.generate_report(tmp_path / "a")

    def faulty(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr("daskglm.report.of_folders.generate_report", faulty)
    status, text = run("group", *common, "--output", tmp_path / "b")
    assert status == 0
    assert "the results are whole, but no report was made (RuntimeError: a fault)" in text.splitlines()[-1]
    with pytest.raises(RuntimeError):
        run("--debug", "group", *common, "--output", tmp_path / "c")


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"has no provenance\.json"):
        daskglm.generate_report(tmp_path)
    assert run("report", tmp_path)[0] == 2
    (tmp_path / "provenance.json").write_text("{}")
    with pytest.raises(ParameterError, match="is not as daskglm writes it"):
        daskglm.generate_report(tmp_path)


@pytest.fixture(scope="module")
def first_level(tmp_path_factory):
    """Two subjects of two runs; the second run of one is not there any more."""
    root, output = tmp_path_factory.mktemp("bids"), tmp_path_factory.mktemp("first") / "out"
    rng = np.random.default_rng(0)
    for sub in ("01", "02"):
        raw, derived = root / f"sub-{sub}/func", root / f"derivatives/prep/sub-{sub}/func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        for index in ("1", "2"):
            name = f"sub-{sub}_task-x_run-{index}"
            onsets = np.arange(2, 70, 8.0)
            events = pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": (["a", "b"] * 9)[: len(onsets)]})
            events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
            columns = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
            motion = pd.DataFrame(rng.standard_normal((40, 6)) / 10, columns=columns)
            motion["framewise_displacement"] = [np.nan, *np.linspace(0, 0.5 + int(index), 39)]
            motion.to_csv(derived / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
            (derived / f"{name}_desc-confounds_timeseries.json").write_text("{}")
            stem = derived / f"{name}_space-MNI152NLin2009cAsym_desc-"
            data = 500 + 5 * rng.standard_normal((4, 4, 4, 40))
            nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([3.0, 3, 3, 1])), f"{stem}preproc_bold.nii.gz")
            nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([3.0, 3, 3, 1])), f"{stem}brain_mask.nii.gz")
            with open(f"{stem}preproc_bold.json", "w") as file:
                json.dump({"RepetitionTime": 2.0, "StartTime": 0.0}, file)
    status, text = run(
        "first-level", root, output, "--contrast", f"{HOSTILE}=a - b", "--f-contrast", "any=a, b", "--confounds",
        "motion=basic", "--quiet",
    )  # fmt: skip
    assert status == 0, text
    assert (output / "report.html").exists(), text
    return output


def test_first_level(first_level):
    page = Page((first_level / "report.html").read_text())
    names = [f"{name}, sub-{sub}" for name in (HOSTILE, "any") for sub in ("01", "02")]
    assert list(page.sections)[1:] == [
        "First-level analysis", "Methods", "Design", "Coverage", "Runs and motion", "Contrasts", *names, "Self-check",
        "Warnings", "How it was made", "Works cited",
    ]  # fmt: skip
    assert page.scripts == 1
    runs = page.numbers("Runs", "largest (mm)")
    assert list(runs) == pytest.approx([1.5, 2.5, 1.5, 2.5])
    assert set(page.numbers("Runs", "left out")) == {0}
    assert set(page.numbers("Runs", "volumes")) == {40}
    assert "4 runs of 2 subjects (160 volumes)" in page.sections["Methods"]
    # Effect, variance and z of t, the variance of F.
    numbers = page.all_numbers("Largest difference from the maps")
    assert len(numbers) == 4
    assert max(numbers) < 1e-6
    assert "daskglm first-level" in page.sections["How it was made"]


def test_first_level_without_its_images(first_level, tmp_path):
    """A folder that was moved away from its dataset is reported all the same."""
    record = json.loads((first_level / "first_level.json").read_text())
    moved = tmp_path / "moved"
    for path in first_level.rglob("*"):
        if path.is_file() and ".zarr/" not in str(path):
            (moved / path.relative_to(first_level)).parent.mkdir(parents=True, exist_ok=True)
            (moved / path.relative_to(first_level)).write_bytes(path.read_bytes())
    record["inputs"] = []
    (moved / "first_level.json").write_text(json.dumps(record))
    page = Page(daskglm.generate_report(moved, plot_type="glass", bg_img=None).html)
    assert "are not where they were" in page.sections["Self-check"]
    assert "have no framewise displacement" in page.sections["Runs and motion"]
