"""Contrasts on the command line, by the names that tables, events and formulas give to regressors."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_cli import run
from test_cli_first_level import AFFINE, N_VOLUMES, SHAPE

import daskglm


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Images of 12 subjects and their participants, whose columns have signs in their names."""
    root = tmp_path_factory.mktemp("signs")
    rng = np.random.default_rng(5)
    n = 12
    data = rng.standard_normal((n, *SHAPE))
    paths = [str(root / f"sub-{k:02d}.nii") for k in range(n)]
    for path, values in zip(paths, data, strict=True):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    participants = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(n)],
            "age": rng.uniform(20, 80, n).round(1),
            "mean.FD": rng.uniform(0, 1, n).round(3),
            "load=2": rng.standard_normal(n).round(3),
            "a-b": rng.standard_normal(n).round(3),
            "group": ["control", "patient", "relative"] * 4,
            "site": (np.arange(n) % 3 + 1) * 1,
        }
    )
    participants.to_csv(root / "participants.tsv", sep="\t", index=False)
    return paths, root / "participants.tsv", data.reshape(n, -1), participants


# Formula, options, label of the file -> columns of the design by hand, and weights.
CASES = {
    "levels": ("~ 0 + C(group)", ["--contrast", "C(group)[patient] - C(group)[control]"],
               "CGroupPatientMinusCGroupControl", "groups", [-1, 1, 0]),
    "number level": ("~ C(site)", ["--contrast", "C(site)[T.2]"], "CSiteT2", "sites", [0, 1, 0]),
    "power": ("~ age + I(age**2)", ["--contrast", "I(age ** 2)"], "IAgeTimesTimes2", "squares", [0, 0, 1]),
    "dot": ("~ age + mean.FD", ["--contrast", "mean.FD - age"], "meanFDMinusAge", "motion", [0, -1, 1]),
    "equals": ("~ age + `load=2`", ["--contrast", "load=2"], "load2", "load", [0, 0, 1]),
    "equals in both": ("~ age + `load=2`", ["--contrast", "high=load=2 - age"], "high", "load", [0, -1, 1]),
    "quoted": ("~ age + `load=2`", ["--contrast", "`load=2` - age"], "load2MinusAge", "load", [0, -1, 1]),
    "minus": ("~ age + `a-b`", ["--contrast", "a-b"], "aMinusB", "minus", [0, 0, 1]),
    "weights": ("~ age + `a-b`", ["--contrast", "both=0 1 1"], "both", "minus", [0, 1, 1]),
    "list of weights": ("~ age + `a-b`", ["--contrast", "both=[0, 1, 1]"], "both", "minus", [0, 1, 1]),
}  # fmt: skip


def _design(kind, participants):
    age, one = participants["age"].to_numpy(), np.ones(len(participants))
    group, site = participants["group"].to_numpy(), participants["site"].to_numpy()
    columns = {
        "groups": [group == name for name in ("control", "patient", "relative")],
        "sites": [one, site == 2, site == 3],
        "squares": [one, age, age**2],
        "motion": [one, age, participants["mean.FD"]],
        "load": [one, age, participants["load=2"]],
        "minus": [one, age, participants["a-b"]],
    }
    return np.column_stack(columns[kind]).astype(float)


@pytest.mark.parametrize("command", ["group", "permute"])
@pytest.mark.parametrize("case", CASES)
def test_names_as_they_are_printed(table, tmp_path, case, command):
    import statsmodels.api as sm

    paths, participants_path, data, participants = table
    formula, options, label, kind, weights = CASES[case]
    more = ["--n-perm", 5] if command == "permute" else []
    status, text = run(command, *paths, "--participants", participants_path, "--formula", formula, *options, *more,
                       "--output", tmp_path / "out", "--quiet")  # fmt: skip
    assert status == 0, text
    t = np.asarray(nib.load(tmp_path / "out" / f"contrast-{label}_stat-t_statmap.nii.gz").dataobj).ravel()
    design = _design(kind, participants)
    expected = [sm.OLS(data[:, v], design).fit().t_test(weights).tvalue.item() for v in range(0, 27, 9)]
    assert np.allclose(t[::9], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        ("load=3", "'load=3' is neither a regressor nor name=expression"),
        ("x=load=3", "no regressor 'load' for contrast 'load=3'"),
        ("load=2=age", ""),
    ],
)
def test_texts_with_equals(table, tmp_path, contrast, message):
    paths, participants_path, _, _ = table
    status, text = run("group", *paths, "--participants", participants_path, "--formula", "~ age + `load=2`",
                       "--contrast", contrast, "--output", tmp_path / "out", "--quiet")  # fmt: skip
    assert (status, message in text) == (2 if message else 0, True), text


def test_a_name_that_may_be_two_things_is_told_with_the_remedy(table, tmp_path):
    paths, _, _, participants = table
    participants.assign(b=participants["age"] ** 2, a=1.0 * participants["site"]).to_csv(
        tmp_path / "t.tsv", sep="\t", index=False
    )
    given = ["group", *paths, "--participants", tmp_path / "t.tsv", "--formula", "~ a + b + `a-b`", "--quiet"]
    status, text = run(*given, "--contrast", "a-b", "--output", tmp_path / "out")
    assert status == 2
    assert "can be read as `a-b` or as `a` - `b`; write the names in backquotes" in text
    assert "in single quotes for the shell" in text
    assert run(*given, "--contrast", "`a-b`", "--contrast", "difference=a - b", "--output", tmp_path / "out")[0] == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two subjects with a run each, of conditions with signs in their names."""
    root = tmp_path_factory.mktemp("bids")
    rng = np.random.default_rng(0)
    for sub in ("01", "02"):
        raw, derived = root / f"sub-{sub}/func", root / f"derivatives/prep/sub-{sub}/func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        onsets = np.arange(2, 70, 8.0)
        names = (["load=1", "load=2", "face/left", "面孔"] * 9)[: len(onsets)]
        events = pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": names})
        events.to_csv(raw / f"sub-{sub}_task-x_events.tsv", sep="\t", index=False)
        stem = f"{derived}/sub-{sub}_task-x_space-T1w_desc-"
        data = 500 + 5 * rng.standard_normal((*SHAPE, N_VOLUMES))
        nib.save(nib.Nifti1Image(data, AFFINE), f"{stem}preproc_bold.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), f"{stem}brain_mask.nii.gz")
        with open(f"{stem}preproc_bold.json", "w") as file:
            json.dump({"RepetitionTime": 2.0, "StartTime": 0.0}, file)
    return root


def test_names_of_conditions(runs, tmp_path):
    first = tmp_path / "first"
    texts = ["load=2 - load=1", "left=face/left - load=1", "load=2", "面孔 - load=1", "weights=1 -1 0 0 0 0"]
    status, text = run("first-level", runs, first, *[f"--contrast={item}" for item in texts], "--quiet")
    assert status == 0, text
    labels = {path.stem.rpartition("contrast-")[2] for path in (first / "group").glob("*.zarr")}
    assert labels == {"load2MinusLoad1", "left", "load2", "U9762U5B54MinusLoad1", "weights"}
    assert json.loads((first / "first_level.json").read_text())["contrasts"]["left"] == "face/left - load=1"
    stem = f"{runs}/derivatives/prep/sub-01/func/sub-01_task-x_space-T1w_desc-"
    model = daskglm.FirstLevelModel(t_r=2.0, mask_img=f"{stem}brain_mask.nii.gz")
    model.fit(f"{stem}preproc_bold.nii.gz", pd.read_csv(f"{runs}/sub-01/func/sub-01_task-x_events.tsv", sep="\t"))
    columns = list(model.design_matrices_[0].columns)
    weights = (np.array(columns) == "load=2").astype(float) - (np.array(columns) == "load=1")
    expected = np.asarray(model.compute_contrast(weights).dataobj)
    assert np.array_equal(np.asarray(model.compute_contrast("load=2 - load=1").dataobj), expected)
    found = nib.load(next(first.glob("sub-01/func/sub-01_task-x_space-T1w_contrast-load2MinusLoad1_stat-z*")))
    assert np.allclose(np.asarray(found.dataobj), expected, atol=1e-5)
    status, text = run("first-level", runs, tmp_path / "no", "--contrast", "load=4", "--quiet")
    assert (status, "'load=4' is neither a regressor nor name=expression" in text) == (2, True)


def test_the_mean_over_subjects_has_the_name_of_the_first_level_contrast(runs, tmp_path):
    first = tmp_path / "first"
    texts = ["--contrast", "load=2 - load=1", "--contrast", "face=face/left"]
    assert run("first-level", runs, first, *texts, "--quiet")[0] == 0
    for given, label in (
        ("load2MinusLoad1", "load2MinusLoad1"), ("load=2 - load=1", "load2MinusLoad1"), ("mean=face", "mean"),
    ):  # fmt: skip
        status, text = run("group", first, "--contrast", given, "--output", tmp_path / label, "--quiet", "--overwrite")
        assert status == 0, text
        names = {path.name.partition("_stat-")[0] for path in (tmp_path / label).glob("contrast-*")}
        assert names == {f"contrast-{label}"}


@pytest.mark.filterwarnings("ignore:contrasts .* test a mean")
@pytest.mark.parametrize("command", [["group"], ["permute", "--n-perm=5", "--rearrangement=permutation"]])
def test_names_are_printed_whole(table, tmp_path, command):
    paths, participants_path, _, _ = table
    name = "the_difference_of_patients_and_controls_in_a_name_that_is_longer_than_a_terminal_is_wide"
    status, text = run(*command, *paths, "--participants", participants_path, "--formula", "~ 0 + C(group)",
                       "--contrast", "C(group)[patient]", "--contrast",
                       f"{name}=C(group)[patient] - C(group)[control]", "--output", tmp_path, "--quiet")  # fmt: skip
    assert status == 0, text
    assert name in text
    assert "C(group)[patient] " in text


@pytest.mark.parametrize(
    "weights", [[0, 1], np.array([0, 1]), pd.Series({"age": 1.0})], ids=["list", "array", "series"]
)
@pytest.mark.parametrize("analysis", [daskglm.group_analysis, daskglm.permutation_analysis])
def test_weights_of_all_kinds_are_recorded(table, tmp_path, weights, analysis):
    paths, participants_path, _, _ = table
    more = {} if analysis is daskglm.group_analysis else {"n_perm": 3}
    for name, contrast in (("weights", weights), ("text", "age")):
        analysis(paths, tmp_path / name, "~ age", {"c": contrast}, participants=participants_path, **more)
    file = "contrast-c_stat-t_statmap.nii.gz"
    t = [np.asarray(nib.load(tmp_path / name / file).dataobj) for name in ("weights", "text")]
    assert np.array_equal(*t, equal_nan=True)
    assert "c (t contrast: " in daskglm.generate_report(tmp_path / "weights", bg_img=None, plot_type="glass").html
