"""Commands with only what `pip install .` brings: they do what they can, or say before they start what to add."""

import sys

import nibabel as nib
import numpy as np
import pytest
from test_cli import run
from test_cli_stats_model import dataset, events_of, nilearn_z  # noqa: F401 (dataset is a fixture)

pytestmark = pytest.mark.filterwarnings("ignore:The following unexpected columns:UserWarning")
GIVEN = ["--contrast", "a - b", "--drift", "none", "--hrf", "spm", "--no-report", "--quiet"]


@pytest.fixture
def bare(monkeypatch):
    """No extra is installed."""
    for name in ("nilearn", "tfce", "jinja2", "bokeh", "dask_jobqueue"):
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="module")
def expected(dataset):  # noqa: F811
    return nilearn_z(dataset, "01", events_of(dataset, "01"), ["trans_x", "rot_z"], "a - b")


def test_confounds_by_column_need_no_nilearn(dataset, expected, tmp_path, bare):  # noqa: F811
    status, text = run("first-level", dataset, tmp_path / "out", *GIVEN, "--confounds", "trans_x, rot_z")
    assert status == 0, text
    (path,) = (tmp_path / "out/sub-01/func").glob("*_stat-z_statmap.nii.gz")
    np.testing.assert_allclose(nib.load(path).get_fdata(), expected, rtol=1e-6)
    for text in ("motion", "motion=basic,high_pass,global_signal"):
        status, said = run("first-level", dataset, tmp_path / text, *GIVEN, "--confounds", text)
        assert status == 0, said
        assert "5 fitted" in said


@pytest.mark.parametrize("command", [["first-level"], ["plan", "first-level"]])
def test_what_is_lacking_is_said_before_the_start(dataset, tmp_path, bare, command):  # noqa: F811
    status, text = run(*command, dataset, tmp_path / "out", *GIVEN, "--confounds", "high_pass,compcor")
    assert (status, "compcor are taken by nilearn" in text, "pip install 'daskglm[nilearn]'" in text) == (2, True, True)
    (mask,) = dataset.glob("derivatives/prep/sub-03/func/*mask.nii.gz")
    away = mask.rename(mask.parent / "away.nii.gz")
    try:
        status, text = run(*command, dataset, tmp_path / "out", *GIVEN)
    finally:
        away.rename(mask)
    assert (status, "sub-03_task-x_space-T1w have none" in text, "daskglm[nilearn]" in text) == (2, True, True), text
    assert not (tmp_path / "out").exists()


def test_a_confound_that_no_table_has_is_refused_before_the_start(dataset, tmp_path):  # noqa: F811
    for given, near in (("motoin", "did you mean 'motion'?"), ("trans_X", "did you mean 'trans_x'?")):
        status, text = run("first-level", dataset, tmp_path / "out", *GIVEN, "--confounds", given)
        assert (status, near in text, len(text.splitlines())) == (2, True, 1), text
    assert not (tmp_path / "out").exists()
