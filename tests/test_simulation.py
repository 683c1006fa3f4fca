"""What the simulators put in is what outsiders find."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import load_mni152_brain_mask
from nilearn.glm.first_level import make_first_level_design_matrix
from nilearn.image import resample_to_img
from scipy import stats

from daskglm.simulation import blob, simulate_bids, simulate_brain, simulate_events, simulate_maps, simulate_run


@pytest.fixture(scope="module")
def mask():
    return simulate_brain(voxel_mm=8)


def test_the_brain_lies_where_that_of_mni_lies(mask):
    template = load_mni152_brain_mask(resolution=4)
    ours = resample_to_img(mask, template, interpolation="nearest", force_resample=True, copy_header=True).get_fdata()
    theirs = template.get_fdata()
    dice = 2 * np.sum((ours > 0) & (theirs > 0)) / (np.sum(ours > 0) + np.sum(theirs > 0))
    assert dice > 0.85


def test_a_blob_is_in_its_place(mask):
    effect = blob(mask, (30, -20, 10), height=2.0, width_mm=10)
    voxels = np.argwhere(effect > 0)
    at = nib.affines.apply_affine(mask.affine, voxels)
    distance = np.linalg.norm(at - (30, -20, 10), axis=1)
    np.testing.assert_allclose(effect[effect > 0], 2 * stats.norm.pdf(distance / 10) / stats.norm.pdf(0))
    assert distance.max() < 10 * np.sqrt(2 * np.log(10)) < distance.max() + 8
    assert not effect[mask.get_fdata() == 0].any()


def test_maps_are_effects_and_noise(mask):
    rng = np.random.default_rng(0)
    weights = pd.DataFrame({"a": rng.standard_normal(40), "b": 1.0})
    effects = {"b": blob(mask, (0, 0, 0), 3.0), "a": blob(mask, (30, 30, 10), 2.0)}
    inside = mask.get_fdata() > 0
    data = np.stack([image.get_fdata() for image in simulate_maps(mask, weights, effects, noise=0.5)])
    assert not data[:, ~inside].any()
    beta, residuals, *_ = np.linalg.lstsq(weights.to_numpy(), data[:, inside], rcond=None)
    errors = 0.5 * np.sqrt(np.diag(np.linalg.inv(weights.T.to_numpy() @ weights.to_numpy())))
    for row, name in enumerate("ab"):
        assert np.std(beta[row] - effects[name][inside]) == pytest.approx(errors[row], rel=0.1)
    assert np.mean(residuals) / 38 == pytest.approx(0.25, rel=0.05)


def test_maps_of_a_subject_share_noise(mask):
    subjects = [f"s{k}" for k in range(10)] * 2
    inside = mask.get_fdata() > 0
    images = simulate_maps(mask, {"none": np.zeros(20)}, {"none": inside * 1.0}, shared=subjects, shared_noise=3.0)
    data = np.stack([image.get_fdata()[inside] for image in images])
    correlation = np.corrcoef(data)
    same = np.equal.outer(subjects, subjects) & ~np.eye(20, dtype=bool)
    assert correlation[same].mean() == pytest.approx(9 / 10, abs=0.03)
    assert abs(correlation[~same & ~np.eye(20, dtype=bool)].mean()) < 0.03


def test_a_run_is_what_nilearn_predicts(mask):
    events = simulate_events(["b", "a"], 20, 10.0, 2.0, seed=3)
    events["modulation"] = np.where(np.arange(20) % 2, 1.0, 2.0)
    effects = {"b": blob(mask, (0, 0, 0), 3.0), "a": blob(mask, (30, 30, 10), 2.0)}
    run = simulate_run(mask, events, effects, 110, 2.0, noise=0.0)
    assert run.header.get_zooms() == (8, 8, 8, 2)
    inside = mask.get_fdata() > 0
    data = run.get_fdata()[inside].T
    design = make_first_level_design_matrix(2.0 * np.arange(110), events, hrf_model="glover", drift_model=None)
    wave = np.cos(np.pi * np.arange(110) / 110)
    expected = wave[:, None] + design["a"].to_numpy()[:, None] * effects["a"][inside]
    expected += design["b"].to_numpy()[:, None] * effects["b"][inside]
    np.testing.assert_allclose(data / 10 - 100, expected, atol=2e-5)


def test_noise_of_a_run_remembers_the_volume_before(mask):
    events = simulate_events(["a"], 5, 10.0, 2.0)
    runs = [simulate_run(mask, events, {}, 300, 1.0, noise=size, seed=4) for size in (0.0, 2.0)]
    inside = mask.get_fdata() > 0
    noise = (runs[1].get_fdata() - runs[0].get_fdata())[inside] / 10
    assert noise.std() == pytest.approx(2.0, rel=0.02)
    assert np.mean(noise[:, 1:] * noise[:, :-1]) / noise.var() == pytest.approx(0.3, abs=0.01)


def test_events_are_spaced_and_mixed():
    events = simulate_events(["a", "b"], 41, 8.0, 2.0, seed=1)
    assert events["trial_type"].value_counts().to_dict() == {"a": 21, "b": 20}
    gaps = np.diff(events["onset"])
    assert gaps.min() > 3.9
    assert gaps.mean() == pytest.approx(8, abs=0.2)
    assert not simulate_events(["a", "b"], 41, 8.0, 2.0, seed=2).equals(events)


def test_a_dataset_has_fmripreps_names(mask, tmp_path):
    table = simulate_bids(str(tmp_path), mask, {"a": blob(mask, (0, 0, 0))}, 2, n_volumes=30, age_effect=0.01)
    assert pd.read_csv(tmp_path / "participants.tsv", sep="\t").equals(table)
    folder = tmp_path / "derivatives" / "fmriprep"
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    name = "sub-02_task-faces_run-2"
    bold = nib.load(folder / "sub-02" / "func" / f"{name}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
    assert bold.shape == (*mask.shape, 30)
    confounds = pd.read_csv(folder / "sub-02" / "func" / f"{name}_desc-confounds_timeseries.tsv", sep="\t")
    assert list(confounds) == ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    assert len(confounds) == 30
    assert (tmp_path / "sub-02" / "func" / f"{name}_events.tsv").exists()
