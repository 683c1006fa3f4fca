"""Options of the first level: what the Python functions can, the command and a model.yaml can, as nilearn fits it."""

import inspect
import json
import shutil
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from test_cli import run

from daskglm import first_level_analysis
from daskglm.cli.first_level_options import first_level_arguments
from daskglm.cli.main import main
from daskglm.models.first_level import DESIGN_PARAMETERS
from daskglm.models.plan_first_level import plan_first_level

nilearn_glm = pytest.importorskip("nilearn.glm.first_level")

SHAPE, N, T_R = (3, 3, 2), 70, 2.0
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
TIMES = np.arange(N) * T_R


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One subject of two runs, the second noisier; events have modulations, and one of them has no trial_type."""
    root, rng = tmp_path_factory.mktemp("bids"), np.random.default_rng(8)
    raw, derived = root / "sub-01/func", root / "derivatives/prep/sub-01/func"
    raw.mkdir(parents=True)
    derived.mkdir(parents=True)
    for index in (1, 2):
        name = f"sub-01_task-x_run-{index}"
        onsets = np.arange(4, 130, 7.0)
        events = pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": (["a", "b"] * 20)[: len(onsets)]})
        events["modulation"] = rng.uniform(0.5, 2, len(onsets)).round(3)
        events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
        data = 500 + 5 * index * rng.standard_normal((*SHAPE, N)) + 20 * rng.standard_normal(N)
        stem = derived / f"{name}_space-T1w_desc-"
        nib.save(nib.Nifti1Image(data, AFFINE), f"{stem}preproc_bold.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), f"{stem}brain_mask.nii.gz")
        (derived / f"{name}_space-T1w_desc-preproc_bold.json").write_text(
            json.dumps({"RepetitionTime": T_R, "StartTime": 0.0})
        )
    return root


def events_of(dataset, index=1):
    return pd.read_csv(dataset / f"sub-01/func/sub-01_task-x_run-{index}_events.tsv", sep="\t", na_values="n/a")


def bold_of(dataset, index=1):
    return nib.load(
        dataset / f"derivatives/prep/sub-01/func/sub-01_task-x_run-{index}_space-T1w_desc-preproc_bold.nii.gz"
    )


def nilearn_effect(image, events, contrast, times=TIMES, scaling=False, standardize=False, **design):
    """Effect of a contrast by nilearn, ordinary least squares."""
    given = {"hrf_model": "glover", "drift_model": "cosine", **design}
    matrix = nilearn_glm.make_first_level_design_matrix(times, events, **given)
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nilearn_glm.FirstLevelModel(
            mask_img=mask, noise_model="ols", signal_scaling=scaling, standardize=standardize
        )
        return model.fit(image, design_matrices=[matrix]).compute_contrast(contrast, output_type="effect_size")


def first_level(dataset, output, *given, contrast="a - b", yaml_of=None):
    """The effect of the first run, by the command; or by a file that holds the same."""
    if yaml_of is None:
        more = ["--noise", "ols", "--contrast", f"c={contrast}", "--quiet"]
        status, text = run("first-level", dataset, output, *given, *more)
    else:
        document = {"kind": "first-level", "dataset": str(dataset), "output": str(output), "noise": "ols",
                    "contrast": {"c": contrast}, "quiet": True, **yaml_of}  # fmt: skip
        (output.parent / "model.yaml").write_text(yaml.safe_dump(document))
        status, text = run("run", output.parent / "model.yaml")
    assert status == 0, text
    return effect(output, "run-1"), text


def effect(output, run_name):
    name = "sub-01_task-x_" + (f"{run_name}_" if run_name else "")
    (path,) = output.glob(f"sub-01/**/{name}space-T1w_contrast-c_stat-effect_statmap.nii.gz")
    return nib.load(path).get_fdata()


FIR = {"hrf_model": "fir", "fir_delays": [0, 1, 2, 3]}
CASES = {
    "fir": (["--hrf", "fir", "--fir-delays", "0,1,2,3"], {"hrf": "fir", "fir-delays": [0, 1, 2, 3]},
            {"contrast": "a_delay_2 + a_delay_3 - b_delay_2 - b_delay_3", **FIR}),
    "drift order": (["--drift", "polynomial", "--drift-order", "3"], {"drift": "polynomial", "drift-order": 3},
                    {"drift_model": "polynomial", "drift_order": 3}),
    "slice time": (["--slice-time-ref", "0.5"], {"slice-time-ref": 0.5}, {"times": TIMES + 1}),
    "no scaling": (["--signal-scaling", "none"], {"signal-scaling": "none"}, {"scaling": False}),
    "of the run": (["--signal-scaling", "0,1"], {"signal-scaling": "0,1"}, {"scaling": (0, 1)}),
    "oversampling": (["--oversampling", "7"], {"oversampling": 7}, {"oversampling": 7, "scaling": 0}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*says otherwise")
@pytest.mark.parametrize("case", CASES)
def test_options_are_nilearns_parameters(dataset, tmp_path, case):
    given, in_file, design = CASES[case]
    contrast = design.get("contrast", "a - b")
    expected = nilearn_effect(
        bold_of(dataset), events_of(dataset), **{"scaling": 0, "contrast": contrast, **design}
    ).get_fdata()
    found, _ = first_level(dataset, tmp_path / "out", *given, contrast=contrast)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    by_file, _ = first_level(dataset, tmp_path / "file", contrast=contrast, yaml_of=in_file)
    np.testing.assert_array_equal(by_file, found)


def test_scaling_by_volume_and_standardized(dataset, tmp_path):
    image = bold_of(dataset)
    data = image.get_fdata()
    percent = nib.Nifti1Image(100 * (data / data.mean(axis=(0, 1, 2)) - 1), AFFINE)
    expected = nilearn_effect(percent, events_of(dataset), "a - b").get_fdata()
    found, _ = first_level(dataset, tmp_path / "one", "--signal-scaling", "1")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    z = nib.Nifti1Image((data - data.mean(axis=3, keepdims=True)) / data.std(axis=3, keepdims=True, ddof=1), AFFINE)
    expected = nilearn_effect(z, events_of(dataset), "a - b").get_fdata()
    found, _ = first_level(dataset, tmp_path / "two", "--signal-scaling", "none", "--standardize")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*null duration")
def test_unit_impulses(dataset, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "bids")
    for path in copy.glob("sub-01/func/*_events.tsv"):
        pd.read_csv(path, sep="\t").assign(duration=0.0).to_csv(path, sep="\t", index=False)
    expected = nilearn_effect(bold_of(copy), events_of(copy), "a - b", scaling=0).get_fdata()
    found, _ = first_level(copy, tmp_path / "sample")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    # An area of one in place of t_r / oversampling.
    found, _ = first_level(copy, tmp_path / "unit", "--impulse", "unit")
    np.testing.assert_allclose(found, expected * T_R / 50, rtol=1e-6, atol=1e-12)
    by_file, _ = first_level(copy, tmp_path / "file", yaml_of={"impulse": "unit"})
    np.testing.assert_array_equal(by_file, found)


def test_transformed_events(dataset, tmp_path):
    """Instructions for events: JSON on the command line, mappings in a file."""
    events = events_of(dataset)
    part = events[events["trial_type"] == "a"].assign(trial_type="m")
    part["modulation"] -= events["modulation"].mean()
    both = pd.concat([events[events["trial_type"] == "a"].assign(modulation=1.0), part])
    expected = nilearn_effect(bold_of(dataset), both, "m", scaling=0).get_fdata()
    steps = [{"Name": "Factor", "Input": ["trial_type"]}, {"Name": "Scale", "Input": ["modulation"], "Rescale": False},
             {"Name": "Product", "Input": ["modulation", "trial_type.a"], "Output": ["m"]},
             {"Name": "Select", "Input": ["trial_type.a", "m"]}]  # fmt: skip
    given = [text for item in steps for text in ("--transform", json.dumps(item))]
    found, _ = first_level(dataset, tmp_path / "out", *given, contrast="m")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    by_file, _ = first_level(dataset, tmp_path / "file", contrast="m", yaml_of={"transform": steps})
    np.testing.assert_array_equal(by_file, found)
    assert json.loads((tmp_path / "out" / "first_level.json").read_text())["transform"] == steps


def test_modulators(dataset, tmp_path):
    """A regressor of amplitude one, and one of the modulation less its mean."""
    events = events_of(dataset)
    more = events.assign(trial_type=events["trial_type"] + "_x_modulation")
    more["modulation"] -= events.groupby("trial_type")["modulation"].transform("mean")
    both = pd.concat([events.assign(modulation=1.0), more])
    expected = nilearn_effect(bold_of(dataset), both, "a_x_modulation - b_x_modulation", scaling=0).get_fdata()
    contrast = "a_x_modulation - b_x_modulation"
    found, _ = first_level(dataset, tmp_path / "out", "--modulators", "centered", contrast=contrast)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_runs_weighed_by_their_precision(dataset, tmp_path):
    first_level(dataset, tmp_path / "equal")
    first_level(dataset, tmp_path / "weighed", "--precision-weighted")
    effects = np.stack([effect(tmp_path / "equal", f"run-{k}") for k in (1, 2)])
    variances = np.stack([
        nib.load(next(path.parent.glob(path.name.replace("stat-effect", "stat-variance")))).get_fdata()
        for k in (1, 2)
        for path in (tmp_path / "equal").glob(f"sub-01/func/*run-{k}*contrast-c_stat-effect*")
    ])  # fmt: skip
    np.testing.assert_allclose(effect(tmp_path / "equal", ""), effects.mean(axis=0), rtol=1e-9)
    expected = (effects / variances).sum(axis=0) / (1 / variances).sum(axis=0)
    np.testing.assert_allclose(effect(tmp_path / "weighed", ""), expected, rtol=1e-9)
    record = json.loads((tmp_path / "weighed" / "first_level.json").read_text())
    assert record["precision_weighted"] is True


def test_bad_events(dataset, tmp_path):
    path = dataset / "sub-01/func/sub-01_task-x_run-1_events.tsv"
    whole = path.read_text()
    good = events_of(dataset)
    bad = pd.concat([good, pd.DataFrame({"onset": [50.0, 60], "duration": [2, np.nan], "trial_type": [None, "a"],
                                         "modulation": 1.0})])  # fmt: skip
    try:
        bad.to_csv(path, sep="\t", index=False, na_rep="n/a")
        status, text = run("first-level", dataset, tmp_path / "stop", "--contrast", "a - b", "--quiet")
        assert (status, f"{path} rows {len(good)}, {len(good) + 1} lack one" in text) == (1, True), text
        assert "--bad-events drop" in text
        found, text = first_level(dataset, tmp_path / "out", "--bad-events", "drop")
        assert f"2 of {len(bad)} events of sub-01_task-x_run-1_space-T1w lack an onset" in text
        # Kept, and told again.
        _, text = first_level(dataset, tmp_path / "out", "--bad-events", "drop")
        assert "2 kept from before" in text
        assert "2 of 20 events" in text.replace(f"2 of {len(bad)}", "2 of 20")
    finally:
        path.write_text(whole)
    expected = nilearn_effect(bold_of(dataset), good, "a - b", scaling=0).get_fdata()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert json.loads((tmp_path / "out" / "first_level.json").read_text())["bad_events"] == "drop"


def test_another_option_is_another_analysis(dataset, tmp_path):
    """What is kept is of the same options; resume gives the same."""
    first_level(dataset, tmp_path / "out")
    for given in (["--drift-order", "2"], ["--bad-events", "drop"], ["--signal-scaling", "none"], ["--bins", "none"]):
        _, text = first_level(dataset, tmp_path / "out", *given)
        assert "2 fitted, 0 kept" in text
        _, text = first_level(dataset, tmp_path / "out", *given)
        assert "0 fitted, 2 kept" in text


REFUSED = {
    "fir without delays": (["--hrf", "fir"], "give --fir-delays 0,1,2,3"),
    "delays without fir": (["--fir-delays", "0,1"], "got 'glover'; give --hrf fir"),
    "no number": (["--hrf", "fir", "--fir-delays", "0,x"], "--fir-delays must be whole numbers"),
    "no JSON": (["--transform", "Factor"], "--transform must be JSON"),
    "an instruction": (["--transform", '{"Name": "Facter", "Input": "trial_type"}'], "did you mean 'Factor'?"),
    "a variable": (["--transform", '{"Name": "Demean", "Input": "rt"}'], "no run can be fitted"),
    "order of the noise": (["--noise", "ar200"], "got ar200 for 70 volumes"),
    "smoothing": (["--smoothing-fwhm", "-3"], "smoothing_fwhm is a width in mm"),
    "nothing to estimate": (["--high-pass", "5"], "contrast 'a' is not estimable"),
    "bins": (["--bins", "many"], "--bins must be a whole number of 1 or more, none or auto"),
}


@pytest.mark.parametrize("command", [["first-level"], ["plan", "first-level"]])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(dataset, tmp_path, case, command):
    given, message = REFUSED[case]
    status, text = run(*command, dataset, tmp_path / "out", "--contrast", "a", *given)
    assert (status, message in text, len(text.splitlines())) == (2, True, 1), text


def test_each_parameter_is_an_option():
    """What the function takes, the command takes, and the plan."""
    parameters = set(inspect.signature(first_level_analysis).parameters)
    expected = (parameters | set(DESIGN_PARAMETERS)) - {"design", "progress"}
    options = {param.name for param in main.commands["first-level"].params}
    assert expected <= options
    planned = set(inspect.signature(plan_first_level).parameters) - {"calibrate"}
    assert planned == parameters - {"progress"}
    assert set(inspect.signature(first_level_arguments).parameters) - {"options"} <= options
