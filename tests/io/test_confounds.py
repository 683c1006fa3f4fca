"""Confounds are nilearn's, whatever the files are called, and events are what the table says."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from daskglm.errors import DesignError, MissingDependencyError, ParameterError
from daskglm.io.bids import find_runs
from daskglm.io.confound_strategies import check_strategies, parse_strategies
from daskglm.io.confounds import load_confounds, read_events

N = 60
MOTION = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]


def fmriprep_table(steady=True):
    """A table with what fMRIPrep writes, and its JSON."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame()
    for name in [*MOTION, "csf", "white_matter", "global_signal"]:
        table[name] = rng.standard_normal(N)
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[f"{name}_derivative1"] ** 2
    metadata = {}
    for prefix, mask in (("a", "combined"), ("a", "CSF"), ("a", "WM"), ("t", None)):
        for k in range(3):
            name = f"{prefix}_comp_cor_{sum(key[0] == prefix for key in metadata):02d}"
            table[name] = rng.standard_normal(N)
            metadata[name] = {"Mask": mask, "Method": f"{prefix}CompCor", "Retained": True, "VarianceExplained": 1 - k}
    for k in range(2):
        table[f"cosine{k:02d}"] = np.cos(np.arange(N) * (k + 1) / N)
    table["aroma_motion_01"] = rng.standard_normal(N)
    table["framewise_displacement"] = np.r_[np.nan, np.full(N - 1, 0.1)]
    table["std_dvars"] = np.r_[np.nan, np.full(N - 1, 1.0)]
    table.loc[[12, 15, 40], "framewise_displacement"] = 0.9
    table.loc[58, "std_dvars"] = 1.8
    if not steady:
        table["non_steady_state_outlier00"] = np.eye(N)[0]
        table["non_steady_state_outlier01"] = np.eye(N)[1]
    return table, metadata


@pytest.fixture
def run(tmp_path):
    """Paths of an image (names only) and its table."""
    return write(tmp_path, *fmriprep_table())


def write(folder, table, metadata=None, stem="sub-01_task-x_run-1", image="space-MNI_desc-preproc_bold.nii.gz"):
    path = folder / f"{stem}_desc-confounds_timeseries.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    if metadata is not None:
        path.with_suffix(".json").write_text(json.dumps(metadata))
    return str(folder / f"{stem}_{image}"), str(path)


def same(ours, theirs):
    pd.testing.assert_frame_equal(ours[0], theirs[0], check_index_type=False)
    assert (ours[1] is None) == (theirs[1] is None)
    if ours[1] is not None:
        np.testing.assert_array_equal(ours[1], theirs[1])


CASES = {
    "motion": {"strategy": ["motion"], "motion": "basic"},
    "motion=full,wm_csf=derivatives": {"strategy": ["motion", "wm_csf"], "motion": "full", "wm_csf": "derivatives"},
    "global_signal=power2": {"strategy": ["global_signal"], "global_signal": "power2"},
    "motion,scrub": {"strategy": ["motion", "scrub"], "motion": "basic"},
    "motion,scrub=0,fd_threshold=0.8,std_dvars_threshold=2": {
        "strategy": ["motion", "scrub"], "motion": "basic", "scrub": 0, "fd_threshold": 0.8, "std_dvars_threshold": 2,
    },
    "high_pass,compcor": {"strategy": ["high_pass", "compcor"]},
    "high_pass,compcor=anat_separated,n_compcor=2": {
        "strategy": ["high_pass", "compcor"], "compcor": "anat_separated", "n_compcor": 2,
    },
    "high_pass,compcor=temporal,demean=false": {
        "strategy": ["high_pass", "compcor"], "compcor": "temporal", "demean": False,
    },
    "ica_aroma=basic": {"strategy": ["ica_aroma"], "ica_aroma": "basic"},
}  # fmt: skip


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("steady", [True, False])
def test_equals_nilearn(tmp_path, text, steady):
    fmriprep = pytest.importorskip("nilearn.interfaces.fmriprep")
    image, table = write(tmp_path, *fmriprep_table(steady))
    ours = load_confounds(image, table, parse_strategies([text]), N)
    same(ours, fmriprep.load_confounds(image, **CASES[text]))
    assert len(ours[0]) == N
    if not steady:
        assert not {0, 1} & set(ours[1])


@pytest.mark.parametrize(
    "image", ["space-T1w_desc-smoothed_bold.nii", "bold.nii.gz", "space-MNI_res-2_desc-x_bold.nii"]
)
def test_names_that_nilearn_refuses(tmp_path, image):
    fmriprep = pytest.importorskip("nilearn.interfaces.fmriprep")
    folder = tmp_path / "tsv files"
    folder.mkdir()
    table, metadata = fmriprep_table()
    good, path = write(tmp_path, table, metadata)
    expected = fmriprep.load_confounds(good, strategy=["high_pass", "compcor"])
    name, path = write(folder, table, metadata, image=image)
    # Another table that nilearn takes for this run's too.
    write(folder, table, metadata, stem="sub-01_task-x")
    same(load_confounds(name, path, {"high_pass": None, "compcor": None}, N), expected)


def test_scrubbing_has_gaps_and_alone_no_columns(run):
    confounds, kept = load_confounds(*run, {"scrub": 5}, N)
    assert confounds is None
    # 13 and 14 are a segment too short, and so is 59.
    np.testing.assert_array_equal(kept, [k for k in range(N) if k not in (12, 13, 14, 15, 40, 58, 59)])
    motion, again = load_confounds(*run, {"motion": "full", "scrub": 5}, N)
    assert motion.shape == (N, 24)
    np.testing.assert_array_equal(again, kept)
    np.testing.assert_allclose(motion.iloc[kept].mean(), 0, atol=1e-12)
    assert load_confounds(*run, {"scrub": 5, "fd_threshold": 5.0, "std_dvars_threshold": 5.0}) == (None, None)


def test_all_scrubbed(run):
    with pytest.raises(DesignError, match="every one is a non-steady state or scrubbed"):
        load_confounds(*run, {"motion": "basic", "scrub": 60}, N)


def test_full_aroma(tmp_path):
    table, _ = fmriprep_table(steady=False)
    image, path = write(tmp_path, table, image="space-MNI_desc-smoothAROMAnonaggr_bold.nii.gz")
    confounds, kept = load_confounds(image, path, {"ica_aroma": "full", "motion": "basic"}, N)
    assert confounds.shape == (N, 6)
    assert kept[0] == 2
    steady_image, steady = write(tmp_path, fmriprep_table()[0], image="desc-smoothAROMAnonaggr_bold.nii.gz")
    assert load_confounds(steady_image, steady, {"ica_aroma": "full"}, N) == (None, None)
    with pytest.raises(DesignError, match="ica_aroma=full is for images desc-smoothAROMAnonaggr"):
        load_confounds(str(tmp_path / "sub-01_desc-preproc_bold.nii.gz"), path, {"ica_aroma": "full"})


def test_tedana(tmp_path):
    image = str(tmp_path / "sub-01_task-x_desc-optcom_bold.nii.gz")
    pd.DataFrame({"ICA_00": np.arange(5.0), "ICA_01": np.ones(5)}).to_csv(
        tmp_path / "sub-01_task-x_desc-ICA_mixing.tsv", sep="\t", index=False
    )
    pd.DataFrame({"Component": ["ICA_00", "ICA_01"], "classification": ["rejected", "accepted"]}).to_csv(
        tmp_path / "sub-01_task-x_desc-tedana_metrics.tsv", sep="\t", index=False
    )
    confounds, kept = load_confounds(image, None, parse_strategies(["tedana"]), 5)
    assert list(confounds) == ["rejected_ICA_00"]
    assert kept is None
    with pytest.raises(DesignError, match="5 rows and the image 6 volumes"):
        load_confounds(image, None, {"tedana": "aggressive"}, 6)


def test_no_strategies(tmp_path):
    assert load_confounds("a_bold.nii.gz", None, {}) == (None, None)
    table = pd.DataFrame({"trans_x": [1.0, 2, 3], "trans_x_derivative1": [np.nan, 1, 1]})
    image, path = write(tmp_path, table)
    confounds, kept = load_confounds(image, path, {}, 3)
    pd.testing.assert_frame_equal(confounds, table.fillna(0.0))
    assert kept is None
    table.loc[2, "trans_x"] = np.nan
    table.loc[1, "trans_x_derivative1"] = np.inf
    with pytest.raises(DesignError, match=r"columns trans_x, trans_x_derivative1, rows 1, 2"):
        load_confounds(*write(tmp_path, table), {})
    # A column that begins later is filled in its first row alone.
    later = pd.DataFrame({"fd": [np.nan, 0.1, np.nan, 0.2], "rot_x": [1.0, 2, 3, 4]})
    with pytest.raises(DesignError, match=r"columns fd, rows 2 "):
        load_confounds(*write(tmp_path, later), {})
    with pytest.raises(DesignError, match="the columns note of"):
        load_confounds(*write(tmp_path, table.assign(note="good")), {})


@pytest.mark.parametrize("n_rows", [1, 2, 3, 6])
def test_the_first_row_takes_missing_values_from_the_second(tmp_path, n_rows):
    table = pd.DataFrame({"a": [np.nan, 2.0, 3, 4, 5, 6], "b": [1.0, 2, 3, 4, 5, 6]})[:n_rows]
    image, path = write(tmp_path, table)
    if n_rows == 1:
        with pytest.raises(DesignError, match="columns a, rows 0"):
            load_confounds(image, path, {"a": None, "b": None}, n_rows)
        return
    found, _ = load_confounds(image, path, {"a": None, "b": None}, n_rows)
    pd.testing.assert_frame_equal(found, table.bfill(limit=1))


def test_errors(run, tmp_path):
    image, path = run
    with pytest.raises(DesignError, match=f"motion, scrub need a table of confounds, but there is none for {image}"):
        load_confounds(image, None, {"motion": "basic", "scrub": 5})
    for strategies in ({}, {"motion": "basic"}):
        with pytest.raises(DesignError, match=rf"{path} has 60 rows and the image 61 volumes"):
            load_confounds(image, path, strategies, 61)
    six, _ = fmriprep_table()
    image, path = write(tmp_path, six[MOTION])
    with pytest.raises(DesignError, match=r"motion cannot be taken from .*trans_x_derivative1"):
        load_confounds(image, path, {"motion": "full"})
    with pytest.raises(DesignError, match=r"scrub cannot be taken.*framewise_displacement"):
        load_confounds(image, path, {"scrub": 5})
    Path(path).with_suffix(".json").unlink()
    with pytest.raises(DesignError, match=r"compcor needs the table's JSON file, but there is no \S+timeseries.json"):
        load_confounds(image, path, {"high_pass": None, "compcor": None})
    six.loc[7, "rot_x"] = np.nan
    with pytest.raises(DesignError, match="columns rot_x, rows 7 "):
        load_confounds(*write(tmp_path, six[MOTION]), {"motion": "basic"})
    with pytest.raises(DesignError, match="cannot read the table"):
        load_confounds(image, str(tmp_path / "absent.tsv"), {"motion": "basic"})


def test_without_nilearn(run, monkeypatch):
    """What is columns of the table is there all the same, and as nilearn has it."""
    fmriprep = pytest.importorskip("nilearn.interfaces.fmriprep")
    text = "motion=full,wm_csf=power2,global_signal,high_pass,scrub=3"
    given = {"motion": "full", "wm_csf": "power2", "scrub": 3, "global_signal": "basic"}
    expected = fmriprep.load_confounds(
        run[0], strategy=["motion", "wm_csf", "global_signal", "high_pass", "scrub"], **given
    )
    monkeypatch.setitem(sys.modules, "nilearn", None)
    monkeypatch.setitem(sys.modules, "nilearn.interfaces.fmriprep", None)
    assert load_confounds(*run, {})[0].shape[0] == N
    same(load_confounds(*run, parse_strategies([text]), N), expected)
    assert list(load_confounds(*run, {"framewise_displacement": None}, N)[0]) == ["framewise_displacement"]
    with pytest.raises(MissingDependencyError, match=r"compcor are taken by nilearn.*pip install 'daskglm\[nilearn\]'"):
        load_confounds(*run, {"high_pass": None, "compcor": None})


def test_columns_by_name(tmp_path):
    table, metadata = fmriprep_table(steady=False)
    image, path = write(tmp_path, table, metadata)
    names = ["framewise_displacement", "a_comp_cor_0?", "rot_x", "motion_outlier*"]
    found, kept = load_confounds(image, path, parse_strategies([",".join(names)]), N)
    assert list(found) == ["framewise_displacement", *(f"a_comp_cor_{k:02d}" for k in range(9)), "rot_x"]
    assert kept is None
    expected = table[list(found)].bfill(limit=1)
    pd.testing.assert_frame_equal(found, expected)
    # Beside a strategy, which leaves out non-steady states; unless these are regressors.
    both, kept = load_confounds(image, path, {"motion": "basic", "framewise_displacement": None}, N)
    assert list(both) == [*sorted(MOTION), "framewise_displacement"]
    np.testing.assert_array_equal(kept, np.arange(2, N))
    for strategy in ({"motion": "basic"}, {"high_pass": None, "compcor": "anat_combined"}):
        both, kept = load_confounds(image, path, {**strategy, "non_steady_state_outlier*": None}, N)
        assert list(both)[-2:] == ["non_steady_state_outlier00", "non_steady_state_outlier01"]
        assert kept is None
    with pytest.raises(DesignError, match="has no column framewise_displacment; did you mean 'framewise_displacement'"):
        load_confounds(image, path, {"framewise_displacment": None}, N)


def test_real_table():
    folder = Path(__file__).parents[3] / "shared" / "data" / "haxby2001"
    if not folder.is_dir():
        pytest.skip(f"the haxby2001 data are not at {folder}")
    for run in find_runs(folder, "objectviewing"):
        whole, _ = load_confounds(run.bold, run.confounds, {})
        basic, kept = load_confounds(run.bold, run.confounds, parse_strategies(["motion"]), len(whole))
        assert kept is None
        assert list(basic) == sorted(MOTION)
        np.testing.assert_allclose(basic, (whole - whole.mean())[list(basic)], atol=1e-12)
        events = read_events(run.events)
        assert events[["onset", "duration"]].notna().all().all()
        assert "face" in set(events["trial_type"])


def test_parse():
    assert parse_strategies([]) == {}
    assert parse_strategies(["motion", "high_pass, wm_csf=full", "global_signal", "compcor", "scrub", "ica_aroma"]) == {
        "motion": "basic", "high_pass": None, "wm_csf": "full", "global_signal": "basic", "compcor": "anat_combined",
        "scrub": 5, "ica_aroma": "full",
    }  # fmt: skip
    assert parse_strategies("tedana") == {"tedana": "aggressive"}
    assert parse_strategies(["scrub=0,fd_threshold=0.2,motion,demean=False", "motion=basic"]) == {
        "scrub": 0, "fd_threshold": 0.2, "motion": "basic", "demean": False,
    }  # fmt: skip
    parsed = parse_strategies(["compcor,high_pass,n_compcor=6"])
    assert parsed["n_compcor"] == 6
    assert parse_strategies(["compcor,high_pass,n_compcor=all"])["n_compcor"] == "all"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("motoin=full", "'motoin'; did you mean 'motion'?. There are motion, wm_csf"),
        ("motion,", "named ''"),
        ("motion=", "this is 'motion='"),
        ("motion=all", "motion must be 'basic', 'power2', 'derivatives' or 'full', got 'all'"),
        ("motion,motion=full", "motion has basic and full"),
        ("high_pass=128", "takes no value"),
        ("scrub=-1", "a whole number of at least 0, but this is '-1'"),
        ("scrub=1.5", "whole number"),
        ("scrub,fd_threshold", "needs a value"),
        ("scrub,fd_threshold=nan", "a number of at least 0"),
        ("motion,fd_threshold=1", "no effect without scrub"),
        ("high_pass,compcor,n_compcor=0", "at least 1"),
        ("demean=true", "no effect without a strategy"),
        ("motion,demean=maybe", "true or false"),
        ("compcor", "compcor needs high_pass"),
        ("tedana,motion", "drop it or motion"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(ParameterError, match=message):
        parse_strategies([text])


def test_parameters_from_python(run):
    with pytest.raises(ParameterError, match="whole number"):
        load_confounds(*run, {"scrub": 2.5})
    with pytest.raises(ParameterError, match="whole number"):
        load_confounds(*run, {"scrub": True})
    assert check_strategies({"high_pass": True}) == check_strategies({"high_pass": None}) == {"high_pass": None}
    with pytest.raises(ParameterError, match="high_pass takes no value, but this is False"):
        load_confounds(*run, {"high_pass": False})
    for given, truth in (("true", True), ("1", True), (True, True), ("False", False), ("0", False), (False, False)):
        assert check_strategies({"motion": "basic", "demean": given})["demean"] is truth
    with pytest.raises(ParameterError, match="'wmcsf'; did you mean 'wm_csf'"):
        load_confounds(*run, {"wmcsf": "basic"})


def table_of_events(folder, text, name="events.tsv"):
    path = folder / name
    path.write_text(text)
    return path


def test_events(tmp_path):
    text = "onset\tduration\ttrial_type\tresponse\n0.1\t1\tnull\tn/a\n2\t1.5\t001\t0.3\n4\tn/a\tn/a\tNaN\n"
    events = read_events(table_of_events(tmp_path, text))
    assert list(events["onset"]) == [0.1, 2, 4]
    np.testing.assert_array_equal(events["duration"], [1, 1.5, np.nan])
    assert list(events["trial_type"][:2]) == ["null", "001"]
    assert pd.isna(events["trial_type"][2])
    np.testing.assert_array_equal(events["response"], [np.nan, 0.3, np.nan])
    commas = read_events(str(table_of_events(tmp_path, text.replace("\t", ","), "events.csv")))
    pd.testing.assert_frame_equal(commas, events)
    assert read_events(table_of_events(tmp_path, "onset\tduration\n")).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onset,duration\n1,2\n", "separated by tabs, .* commas: 'onset,duration'; save"),
        ("onset duration\n1 2\n", "separated by tabs"),
        ("", "separated by tabs"),
        ("onset\ttrial_type\n1\ta\n", "has onset, trial_type; add"),
        ("onset\tduration\n1\tlong\n2\t1\n", "duration is in seconds, but .* has 'long'"),
        ("onset\tduration\n1\t2\n1\t2\t3\t4\n", "cannot read"),
    ],
)
def test_bad_events(tmp_path, text, message):
    with pytest.raises(DesignError, match=message):
        read_events(table_of_events(tmp_path, text))
    with pytest.raises(DesignError, match="cannot read"):
        read_events(tmp_path / "absent.tsv")
