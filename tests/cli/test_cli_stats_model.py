"""BIDS Stats Models as they are published, against nilearn's fit of the design that the document describes."""

import json
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_cli import run

from daskglm import open_images

nilearn_glm = pytest.importorskip("nilearn.glm.first_level")

pytestmark = pytest.mark.filterwarnings("ignore:The following unexpected columns:UserWarning")

SHAPE, N, T_R = (3, 3, 3), 60, 2.0
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SUBJECTS = ("01", "02", "03", "04", "05")
QUIET = ["--quiet", "--no-report"]
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five subjects of one run: two volumes before the steady state, events of three types, one of them rare."""
    root, rng = tmp_path_factory.mktemp("bids"), np.random.default_rng(5)
    for sub in SUBJECTS:
        raw, derived = root / f"sub-{sub}/func", root / f"derivatives/prep/sub-{sub}/func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        name = f"sub-{sub}_task-x"
        onsets = np.arange(4, 110, 8.0)
        types = np.array((["a", "b", "c"] * 9)[: len(onsets)])
        rt = rng.uniform(0.4, 2.0, len(onsets)).round(3)
        events = pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": types, "rt": rt})
        events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
        data = 500 + 5 * rng.standard_normal((*SHAPE, N))
        for onset in onsets[types == "a"]:
            data[..., int(onset / T_R) + 2 : int(onset / T_R) + 5] += 8
        data[..., :2] += [600, 250]
        stem = derived / f"{name}_space-T1w_desc-"
        nib.save(nib.Nifti1Image(data, AFFINE), f"{stem}preproc_bold.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), f"{stem}brain_mask.nii.gz")
        (derived / f"{name}_space-T1w_desc-preproc_bold.json").write_text(
            json.dumps({"RepetitionTime": T_R, "StartTime": 0.0})
        )
        table = pd.DataFrame(rng.standard_normal((N, 6)), columns=MOTION)
        table["global_signal"] = data.mean(axis=(0, 1, 2))
        table["framewise_displacement"] = np.r_[np.nan, np.abs(rng.standard_normal(N - 1))]
        for k in range(3):
            table[f"a_comp_cor_{k:02d}"] = rng.standard_normal(N)
        for k in range(2):
            table[f"non_steady_state_outlier{k:02d}"] = np.eye(N)[k]
        if sub == "01":
            table["motion_outlier00"] = np.eye(N)[17]
        table.to_csv(derived / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    people = {"participant_id": [f"sub-{sub}" for sub in SUBJECTS], "age": [30, 41, 25, 38, 52], "sex": list("FMFMF")}
    pd.DataFrame(people).to_csv(root / "participants.tsv", sep="\t", index=False)
    return root


def model(x, contrasts, **changes):
    """A document with one node of runs."""
    conditions = [name for name in x if str(name).startswith("trial_type.")]
    node = {
        "Level": "Run",
        "Name": "run",
        "GroupBy": ["run", "subject"],
        "Transformations": {
            "Transformer": "pybids-transforms-v1",
            "Instructions": [
                {"Name": "Factor", "Input": ["trial_type"]},
                {"Name": "Convolve", "Input": conditions, "Model": "spm"},
            ],
        },
        "Model": {"X": [*x, 1], "Type": "glm"},
        "Contrasts": [
            {"Name": name, "ConditionList": list(weights), "Weights": list(weights.values()), "Test": "t"}
            for name, weights in contrasts.items()
        ],
    }
    only = {"task": ["x"], "subject": ["02"]}
    return {"Name": "m", "BIDSModelVersion": "1.0.0", "Input": only, "Nodes": [{**node, **changes}]}


def fitted(document, dataset, folder, *more):
    """What the command says, for the z maps in its folder."""
    folder.mkdir(exist_ok=True)
    (folder / "m.json").write_text(json.dumps(document))
    return run("run", folder / "m.json", dataset, folder / "out", *QUIET, *more)


def z_of(folder, sub, label):
    (path,) = (folder / "out").glob(f"sub-{sub}/func/*_contrast-{label}_stat-z_statmap.nii.gz")
    return nib.load(path).get_fdata()


def nilearn_z(dataset, sub, events, confounds, contrast, hrf="spm", drift=None, **design):
    """Z of nilearn's model, a few columns of its confounds in the design."""
    stem = dataset / f"derivatives/prep/sub-{sub}/func/sub-{sub}_task-x"
    table = pd.read_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", na_values="n/a").bfill(limit=1)
    times = np.arange(N) * T_R
    matrix = nilearn_glm.make_first_level_design_matrix(
        times, events, hrf_model=hrf, drift_model=drift,
        add_regs=table[confounds] if confounds else None, **design,
    )  # fmt: skip
    images = f"{stem}_space-T1w_desc-preproc_bold.nii.gz"
    mask = f"{stem}_space-T1w_desc-brain_mask.nii.gz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = nilearn_glm.FirstLevelModel(mask_img=mask, noise_model="ar1").fit(images, design_matrices=[matrix])
    return fit.compute_contrast(contrast).get_fdata()


def events_of(dataset, sub):
    return pd.read_csv(dataset / f"sub-{sub}/func/sub-{sub}_task-x_events.tsv", sep="\t")[
        ["onset", "duration", "trial_type"]
    ]


ALL = [f"trial_type.{name}" for name in "abc"]
CONFOUNDS = {
    "non-steady states alone": (
        ["non_steady_state_outlier*"],
        ["non_steady_state_outlier00", "non_steady_state_outlier01"],
    ),
    "with motion": (
        ["trans_?", "non_steady_state*"],
        [*MOTION[:3], "non_steady_state_outlier00", "non_steady_state_outlier01"],
    ),
    "one of motion": (["trans_x"], ["trans_x"]),
    "displacement and components": (
        ["framewise_displacement", "a_comp_cor_0?"],
        ["framewise_displacement", "a_comp_cor_00", "a_comp_cor_01", "a_comp_cor_02"],
    ),
    "what is a strategy's name, too": (["global_signal"], ["global_signal"]),
}


@pytest.mark.parametrize("case", CONFOUNDS)
def test_confounds_of_x_are_in_the_design(dataset, tmp_path, case):
    names, columns = CONFOUNDS[case]
    document = model([*ALL, *names], {"a_b": {"trial_type.a": 1, "trial_type.b": -1}})
    status, text = fitted(document, dataset, tmp_path)
    assert status == 0, text
    expected = nilearn_z(dataset, "02", events_of(dataset, "02"), columns, "a - b")
    np.testing.assert_allclose(z_of(tmp_path, "02", "aB"), expected, rtol=1e-6)


def test_a_pattern_that_some_runs_lack_is_told_and_one_that_all_lack_is_refused(dataset, tmp_path):
    contrast = {"a": {"trial_type.a": 1}}
    everyone = {**model([*ALL, "motion_outlier*"], contrast), "Input": {"task": "x"}}
    status, text = fitted(everyone, dataset, tmp_path / "some")
    assert status == 0, text
    assert "no column 'motion_outlier*' is in the confounds of sub-02_task-x_space-T1w" in text
    assert "4 of 5 runs" in text
    design = pd.read_csv(next((tmp_path / "some").glob("out/sub-01/func/*_design.tsv")), sep="\t")
    assert "motion_outlier00" in design
    for name, near in (("motion_outliers*", ""), ("frame_displacement", "did you mean 'framewise_displacement'?")):
        status, text = fitted(model([*ALL, name], contrast), dataset, tmp_path / "none")
        assert (status, f"has a column '{name}'" in text, near in text) == (2, True, True), text
        assert not (tmp_path / "none" / "out").exists()


def instructions(*steps):
    return {"Transformer": "pybids-transforms-v1", "Instructions": list(steps)}


def step(name, inputs, output=None, **more):
    return {"Name": name, "Input": inputs, **({} if output is None else {"Output": output}), **more}


def rows(dataset, *parts):
    """Events of sub-02 for nilearn: name, which, amplitudes, and durations where they are others."""
    table = pd.read_csv(dataset / "sub-02/func/sub-02_task-x_events.tsv", sep="\t")
    found = []
    for name, which, amplitude, *duration in parts:
        part = table[which(table)].assign(trial_type=name)
        part["modulation"] = amplitude(part) if callable(amplitude) else amplitude
        found.append(part.assign(duration=duration[0](part)) if duration else part)
    return pd.concat(found)[["onset", "duration", "trial_type", "modulation"]]


def everything(table):
    return table["rt"] > 0


def typed(name):
    return lambda table: table["trial_type"] == name


def demeaned(table):
    return table["rt"] - table["rt"].mean()


SPM = {"Model": "spm"}
FACTOR = step("Factor", ["trial_type"])
# X, instructions or HRF, contrast: weights by name; events for nilearn, and its contrast.
PUBLISHED = {
    "events that are not modelled": (
        ["trial_type.a", "trial_type.b"], [FACTOR, step("Convolve", ["trial_type.a", "trial_type.b"], **SPM)],
        {"trial_type.a": 1, "trial_type.b": -1}, [("a", typed("a"), 1.0), ("b", typed("b"), 1.0)], "a - b", {},
    ),
    "HRF in the model, without a Factor": (
        ["trial_type.a"], {"Variables": ["trial_type.a"], "Model": "spm"}, {"trial_type.a": 1},
        [("a", typed("a"), 1.0)], "a", {},
    ),
    "names of a convolution": (
        ["listening"], [step("Convolve", ["trial_type.a"], "listening", **SPM)], {"listening": 1},
        [("a", typed("a"), 1.0)], "a", {},
    ),
    "parametric modulation": (
        ["trials", "rt_dm"],
        [step("Threshold", ["rt"], ["trials"], Binarize=True),
         step("Scale", ["rt"], ["rt_dm"], Demean=True, Rescale=False),
         step("Convolve", ["trials", "rt_dm"], **SPM)],
        {"rt_dm": 1}, [("t", everything, 1.0), ("rt", everything, demeaned)], "rt", {},
    ),
    "z-scored": (
        ["rt"], [step("Scale", ["rt"]), step("Convolve", ["rt"], **SPM)], {"rt": 1},
        [("rt", everything, lambda part: demeaned(part) / part["rt"].std(ddof=1))], "rt", {},
    ),
    "product of a condition and a rating": (
        ["a", "a_rt"],
        [FACTOR, step("Product", ["trial_type.a", "rt"], ["a_rt"]), step("Rename", ["trial_type.a"], ["a"]),
         step("Convolve", ["a", "a_rt"], **SPM)],
        {"a_rt": 1}, [("a", typed("a"), 1.0), ("m", typed("a"), lambda part: part["rt"])], "m", {},
    ),
    "durations assigned": (
        ["long"],
        [FACTOR, step("Assign", ["rt"], ["long"], Target=["trial_type.b"], TargetAttr="duration"),
         step("Convolve", ["long"], **SPM)],
        {"long": 1}, [("b", typed("b"), 1.0, lambda part: part["rt"])], "b", {},
    ),
    "finite impulse responses": (
        ["trial_type.a", "trial_type.b"],
        {"Variables": ["trial_type.a", "trial_type.b"], "Model": "fir", "Parameters": {"fir_delays": [1, 2, 3]}},
        {"trial_type.a_delay_2": 1, "trial_type.b_delay_2": -1},
        [("a", typed("a"), 1.0), ("b", typed("b"), 1.0)], "a_delay_2 - b_delay_2",
        {"hrf": "fir", "fir_delays": [1, 2, 3]},
    ),
    "derivatives": (
        ALL, {"Variables": ALL, "Model": "spm + derivative"}, {"trial_type.a_derivative": 1},
        [(name, typed(name), 1.0) for name in "abc"], "a_derivative", {"hrf": "spm + derivative"},
    ),
    "a contrast of confounds": (
        [*ALL, "trans_?"], [FACTOR, step("Convolve", ["trial_type.*"], **SPM)], {"trans_x": 1, "trans_y": -1},
        [(name, typed(name), 1.0) for name in "abc"], "trans_x - trans_y", {"confounds": MOTION[:3]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_models_as_they_are_published(dataset, tmp_path, case):
    x, how, weights, parts, contrast, more = PUBLISHED[case]
    changes = {"Transformations": instructions(*how)} if isinstance(how, list) else {"Transformations": None}
    document = model(x, {"wanted": weights}, **changes)
    if isinstance(how, dict):
        document["Nodes"][0]["Model"]["HRF"] = how
    status, text = fitted(document, dataset, tmp_path)
    assert status == 0, text
    given = {"confounds": [], "hrf": "spm", **more}
    expected = nilearn_z(dataset, "02", rows(dataset, *parts), given.pop("confounds"), contrast, **given)
    np.testing.assert_allclose(z_of(tmp_path, "02", "wanted"), expected, rtol=1e-6)
    # What was run is said in the record, and again it is the same analysis.
    record = json.loads((tmp_path / "out" / "first_level.json").read_text())
    assert bool(record["transform"]) == (case not in ("derivatives", "a contrast of confounds"))
    assert "0 fitted, 1 kept" in fitted(document, dataset, tmp_path)[1]


GROUP = {"Level": "Dataset", "Name": "group", "GroupBy": ["contrast"]}


def of_groups(*nodes):
    """Runs, and the group from them: each subject has one."""
    document = model(ALL, {"a_b": {"trial_type.a": 1, "trial_type.b": -1}})
    return {**document, "Input": {"task": "x"}, "Nodes": [*document["Nodes"], *({**GROUP, **node} for node in nodes)]}


def weighed(name, **weights):
    return [{"Name": name, "ConditionList": list(weights), "Weights": list(weights.values()), "Test": "t"}]


GROUPS = {
    "two groups and a covariate": (
        {"Transformations": instructions(step("Factor", ["sex"]), step("Demean", ["age"], "age_dm")),
         "Model": {"X": ["sex.M", "sex.F", "age_dm"], "Type": "glm"},
         "Contrasts": weighed("wanted", **{"sex.M": 1, "sex.F": -1})},
        lambda people: [people["sex"] == "M", people["sex"] == "F", people["age"]], [1, -1, 0],
    ),
    "a level against the others": (
        {"Transformations": instructions(step("Factor", "sex")), "Model": {"X": [1, "sex.M"]},
         "Contrasts": weighed("wanted", **{"sex.M": 1})},
        lambda people: [people["sex"] == people["sex"], people["sex"] == "M"], [0, 1],
    ),
    "another reference": (
        {"Transformations": instructions(step("Factor", "sex")), "Model": {"X": [1, "sex.F"]},
         "Contrasts": weighed("wanted", **{"sex.F": 1})},
        lambda people: [people["sex"] == people["sex"], people["sex"] == "F"], [0, 1],
    ),
    "a formula": (
        {"Model": {"X": [1, "sex"], "Formula": "0 + C(sex)"},
         "Contrasts": weighed("wanted", **{"C(sex)[T.M]": 1, "C(sex)[T.F]": -1})},
        lambda people: [people["sex"] == "M", people["sex"] == "F"], [1, -1],
    ),
    "minus the mean": (
        {"Model": {"X": [1]}, "Contrasts": [{"Name": "wanted", "ConditionList": [1], "Weights": [-1], "Test": "t"}]},
        lambda people: [people["sex"] == people["sex"]], [-1],
    ),
    "scaled": (
        {"Transformations": instructions(step("Scale", ["age"])), "Model": {"X": [1, "age"]},
         "Contrasts": weighed("wanted", age=1)},
        lambda people: [people["sex"] == people["sex"], people["age"]], [0, 1],
    ),
}  # fmt: skip


def test_groups_of_subjects_with_one_run(dataset, tmp_path):
    """T by hand, from the subjects' effects."""
    nodes = [{"Name": f"g {index}", **GROUPS[case][0]} for index, case in enumerate(GROUPS)]
    status, text = fitted(of_groups(*nodes), dataset, tmp_path)
    assert status == 0, text
    (store,) = (tmp_path / "out/group").glob("*.zarr")
    y = open_images(str(store)).data.values.astype(float)
    people = pd.read_csv(dataset / "participants.tsv", sep="\t")
    for index, (_, columns, weights) in enumerate(GROUPS.values()):
        x, c = np.column_stack(columns(people)).astype(float), np.array(weights, dtype=float)
        beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
        t = c @ beta / np.sqrt(rss / (len(y) - x.shape[1]) * (c @ np.linalg.inv(x.T @ x) @ c))
        (path,) = (tmp_path / f"out/node-g{index}").glob("contrast-*/contrast-wanted_stat-t_statmap.nii.gz")
        np.testing.assert_allclose(nib.load(path).get_fdata().ravel(order="F"), t, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.* images left out:UserWarning")
def test_a_group_for_each_level(dataset, tmp_path):
    node = {"Name": "each", "GroupBy": ["contrast", "sex"], "Model": {"X": [1]}, "DummyContrasts": {"Test": "t"}}
    status, text = fitted(of_groups(node), dataset, tmp_path)
    assert status == 0, text
    (store,) = (tmp_path / "out/group").glob("*.zarr")
    y = open_images(str(store)).data.values.astype(float)
    sex = pd.read_csv(dataset / "participants.tsv", sep="\t")["sex"].to_numpy()
    for level in "FM":
        part = y[sex == level]
        t = part.mean(axis=0) / (part.std(axis=0, ddof=1) / np.sqrt(len(part)))
        (path,) = (tmp_path / f"out/node-eachSex{level}").glob("contrast-*/contrast-*_stat-t_statmap.nii.gz")
        np.testing.assert_allclose(nib.load(path).get_fdata().ravel(order="F"), t, rtol=1e-4)


REFUSED = {
    "split by what is not there": ({"GroupBy": ["contrast", "sexx"], "Model": {"X": [1]}}, "did you mean 'sex'?"),
    "several contrasts in one": ({"GroupBy": [], "Model": {"X": [1]}}, "a test of several contrasts"),
    "over contrasts": ({"Model": {"X": ["a_b"]}, "Contrasts": weighed("w", a_b=1)}, "X of node 'group' has 'a_b'"),
    "a level": ({"Transformations": instructions(step("Factor", ["sex"])), "Model": {"X": ["sex.X", "sex.F"]}},
                "sex has the levels F, M"),
    "one level of two": ({"Transformations": instructions(step("Factor", ["sex"])), "Model": {"X": ["sex.F"]}},
                         "of sex it has F of F, M"),
    "a transformation": ({"Transformations": instructions(step("Threshold", ["age"])), "Model": {"X": ["age"]}},
                         "transformation 'Threshold' of node 'group' has no counterpart"),
    "a formula's column": ({"Model": {"X": ["agee"], "Formula": "~ agee"}}, "the design of node 'group'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_group_cannot_is_refused_by_name(dataset, tmp_path, case):
    node, message = REFUSED[case]
    status, text = fitted(of_groups({"DummyContrasts": {"Test": "t"}, **node}), dataset, tmp_path)
    assert (status, message in text, len(text.splitlines())) == (2, True, 1), text


@pytest.fixture(scope="module")
def sessions(dataset, tmp_path_factory):
    """Two subjects of two sessions of two runs, each run of another task as well."""
    root = tmp_path_factory.mktemp("sessions")
    rng = np.random.default_rng(11)
    for sub in ("01", "02"):
        for ses in ("1", "2"):
            raw, derived = root / f"sub-{sub}/ses-{ses}/func", root / f"derivatives/prep/sub-{sub}/ses-{ses}/func"
            raw.mkdir(parents=True)
            derived.mkdir(parents=True)
            for task, run_label in (("x", "1"), ("x", "2"), ("y", "1")):
                name = f"sub-{sub}_ses-{ses}_task-{task}_run-{run_label}"
                events_of(dataset, "01").to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
                data = 500 + 5 * rng.standard_normal((*SHAPE, N))
                stem = derived / f"{name}_space-T1w_desc-"
                nib.save(nib.Nifti1Image(data, AFFINE), f"{stem}preproc_bold.nii.gz")
                nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), f"{stem}brain_mask.nii.gz")
                (derived / f"{name}_space-T1w_desc-preproc_bold.json").write_text(
                    json.dumps({"RepetitionTime": T_R, "StartTime": 0.0})
                )
    return root


def combined(level, by):
    return {"Level": level, "Name": level, "GroupBy": by, "Model": {"X": [1], "Type": "meta"},
            "DummyContrasts": {"Test": "t"}}  # fmt: skip


def test_sessions_and_several_tasks(sessions, tmp_path):
    """Runs of each session, and sessions of each subject: means of means of as many runs, by hand."""
    document = model(ALL, {"a_b": {"trial_type.a": 1, "trial_type.b": -1}})
    document["Nodes"][0]["GroupBy"] = ["run", "session", "task", "subject"]
    document["Input"] = {"task": ["x", "y"]}
    nodes = [combined("Session", ["session", "subject", "contrast"]), combined("Subject", ["subject", "contrast"])]
    status, text = fitted({**document, "Nodes": [*document["Nodes"], *nodes]}, sessions, tmp_path)
    assert status == 0, text
    assert "2 subjects, 12 runs" in text
    runs = sorted((tmp_path / "out/sub-01").glob("ses-*/func/*_contrast-aB_stat-effect_statmap.nii.gz"))
    assert len(runs) == 6
    (whole,) = (tmp_path / "out/sub-01").glob("*_contrast-aB_stat-effect_statmap.nii.gz")
    expected = np.mean([nib.load(path).get_fdata() for path in runs], axis=0)
    np.testing.assert_allclose(nib.load(whole).get_fdata(), expected, rtol=1e-9)
    assert json.loads((tmp_path / "out/first_level.json").read_text())["task"] == "x, y"


LEVELS = {
    "several contrasts": (
        {"DummyContrasts": {"Contrasts": ["trial_type.b"], "Test": "t"}}, [combined("Subject", ["subject"])],
        "several come in, here a_b, trial_type.b",
    ),
    "one design of several runs": ({"GroupBy": ["subject", "session"]}, [], "which makes one of sub-01_ses-1_task-x"),
    "an unknown entity": ({"GroupBy": ["subject", "runn"]}, [], "'runn', which is no entity of runs"),
    "several maps a subject": (
        {}, [combined("Session", ["session", "subject", "contrast"])], "add a node of level Subject",
    ),
    "no node of subjects": ({}, [{**GROUP, "Model": {"X": [1]}, "DummyContrasts": {"Test": "t"}}], "several runs; add"),
    "the wrong order": (
        {}, [combined("Subject", ["subject", "contrast"]), combined("Session", ["session", "subject", "contrast"])],
        "the levels here are run, subject, session",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEVELS)
def test_levels_that_do_not_fit_the_dataset_are_refused(sessions, tmp_path, case):
    changes, nodes, message = LEVELS[case]
    by = {"GroupBy": ["run", "session", "subject"], **changes}
    document = model(ALL, {"a_b": {"trial_type.a": 1, "trial_type.b": -1}}, **by)
    status, text = fitted(
        {**document, "Input": {"task": "x"}, "Nodes": [*document["Nodes"], *nodes]}, sessions, tmp_path
    )
    assert (status, message in text, len(text.splitlines())) == (2, True, 1), text


def test_sessions_of_different_numbers_of_runs(sessions, tmp_path):
    """Weighed by session they are another mean than all runs together."""
    nodes = [combined("Session", ["session", "subject", "contrast"]), combined("Subject", ["subject", "contrast"])]
    document = model(ALL, {"a": {"trial_type.a": 1}}, GroupBy=["run", "session", "subject"])
    (bold,) = sessions.glob("derivatives/prep/sub-02/ses-2/func/*task-x_run-2*bold.nii.gz")
    away = bold.rename(bold.parent / "away.nii.gz")
    try:
        document = {**document, "Input": {"task": "x"}, "Nodes": [*document["Nodes"], *nodes]}
        status, text = fitted(document, sessions, tmp_path)
    finally:
        away.rename(bold)
    assert (status, "sub-02 have sessions of different numbers of runs" in text) == (2, True), text
