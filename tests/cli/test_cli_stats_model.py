"""BIDS Stats Models as they are published, against nilearn's fit of the design that the document describes."""

import json
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_cli import run

nilearn_glm = pytest.importorskip("nilearn.glm.first_level")

pytestmark = pytest.mark.filterwarnings("ignore:The following unexpected columns:UserWarning")

SHAPE, N, T_R = (3, 3, 3), 60, 2.0
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
QUIET = ["--quiet", "--no-report"]
MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three subjects of one run: two volumes before the steady state, events of three types, one of them rare."""
    root, rng = tmp_path_factory.mktemp("bids"), np.random.default_rng(5)
    for sub in ("01", "02", "03"):
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
    people = {"participant_id": ["sub-01", "sub-02", "sub-03"], "age": [30, 41, 25], "sex": ["F", "M", "F"]}
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
    return {"Name": "m", "BIDSModelVersion": "1.0.0", "Input": {"task": ["x"]}, "Nodes": [{**node, **changes}]}


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
    status, text = fitted(model([*ALL, "motion_outlier*"], contrast), dataset, tmp_path / "some")
    assert status == 0, text
    assert "no column 'motion_outlier*' is in the confounds of sub-02_task-x_space-T1w" in text
    assert "2 of 3 runs" in text
    design = pd.read_csv(next((tmp_path / "some").glob("out/sub-01/func/*_design.tsv")), sep="\t")
    assert "motion_outlier00" in design
    for name, near in (("motion_outliers*", ""), ("frame_displacement", "did you mean 'framewise_displacement'?")):
        status, text = fitted(model([*ALL, name], contrast), dataset, tmp_path / "none")
        assert (status, f"has a column '{name}'" in text, near in text) == (2, True, True), text
        assert not (tmp_path / "none" / "out").exists()
