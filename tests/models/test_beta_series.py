"""Beta series against loops of nilearn's FirstLevelModel."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel

from daskglm.errors import DesignError, ImageError, ParameterError
from daskglm.graph import runs
from daskglm.models.beta_series import beta_series
from daskglm.schema.datasets import check_images, space_of

T_R = 2.0
N_VOLUMES = 70
SHAPE = (5, 4, 3)
MASK = nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))


def make_run(n_volumes: int = N_VOLUMES, seed: int = 0) -> nib.Nifti1Image:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*SHAPE, n_volumes))
    for volume in range(1, n_volumes):
        noise[..., volume] += 0.4 * noise[..., volume - 1]
    return nib.Nifti1Image(100 + 10 * rng.random((*SHAPE, 1)) + noise, np.eye(4))


def make_events(n_trials: int = 12, gap: float = 10.0) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    onsets = 3.0 + gap * np.arange(n_trials) + rng.uniform(0, 0.4 * gap, n_trials)
    types = np.where(np.arange(n_trials) % 3 == 0, "house", "face")
    table = pd.DataFrame({"onset": onsets, "duration": 1.0, "trial_type": types})
    return table.sample(frac=1.0, random_state=2).reset_index(drop=True)


def nilearn_betas(run: Any, events: pd.DataFrame, labels: list[str], noise: str, **options: Any) -> np.ndarray:
    """Effects of some conditions, (k, V) in the order of the file."""
    model = FirstLevelModel(T_R, mask_img=MASK, noise_model=noise, minimize_memory=True, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(run, events)
        maps = [model.compute_contrast(label, output_type="effect_size").get_fdata() for label in labels]
    return np.stack([values.ravel(order="F") for values in maps])


def nilearn_lsa(run: Any, events: pd.DataFrame, noise: str, chosen: tuple[str, ...], **options: Any) -> np.ndarray:
    events = events.sort_values("onset").reset_index(drop=True)
    single = events["trial_type"].isin(chosen)
    labels = [f"trial{k:03d}" for k in np.flatnonzero(single)]
    events.loc[single, "trial_type"] = labels
    return nilearn_betas(run, events, labels, noise, **options)


def nilearn_lss(
    run: Any, events: pd.DataFrame, noise: str, chosen: tuple[str, ...], trials: slice = slice(None), **options: Any
) -> np.ndarray:
    events = events.sort_values("onset").reset_index(drop=True)
    rows = np.flatnonzero(events["trial_type"].isin(chosen))[trials]
    found = []
    for row in rows:
        relabelled = events.copy()
        relabelled.loc[row, "trial_type"] = "this"
        found.append(nilearn_betas(run, relabelled, ["this"], noise, **options)[0])
    return np.stack(found)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("noise", ["ols", "ar1"])
@pytest.mark.parametrize("chosen", [("face", "house"), ("house",)])
def test_lsa_is_nilearns(noise: str, chosen: tuple[str, ...]) -> None:
    run, events = make_run(), make_events()
    found = beta_series(
        run, events, T_R, conditions=chosen, noise_model=noise, mask_img=MASK, dtype="float64", n_jobs=1
    )
    assert_same(found["data"].values, nilearn_lsa(run, events, noise, chosen))


@pytest.mark.parametrize("noise", ["ols", "ar1"])
@pytest.mark.parametrize("chosen", [("face", "house"), ("house",)])
def test_lss_is_a_loop_of_nilearn_fits(noise: str, chosen: tuple[str, ...]) -> None:
    run, events = make_run(), make_events()
    found = beta_series(
        run, events, T_R, method="lss", conditions=chosen, noise_model=noise, mask_img=MASK, dtype="float64", n_jobs=2
    )
    assert_same(found["data"].values, nilearn_lss(run, events, noise, chosen))


@pytest.mark.parametrize("scaling", [1, (0, 1), False])
def test_scaling_response_drifts_and_times(scaling: Any) -> None:
    run, events = make_run(), make_events(6, 20.0)
    options = {
        "signal_scaling": scaling, "hrf_model": "spm", "drift_model": "polynomial", "drift_order": 2,
        "slice_time_ref": 0.5, "min_onset": -10,
    }  # fmt: skip
    found = beta_series(run, events, T_R, method="lss", mask_img=MASK, dtype="float64", n_jobs=1, **options)
    if scaling == 1:  # nilearn 0.14.1 stops with a broadcasting error
        values = run.get_fdata()
        run = nib.Nifti1Image(100 * (values / values.mean(axis=(0, 1, 2)) - 1), np.eye(4))
        options["signal_scaling"] = False
    assert_same(found["data"].values, nilearn_lss(run, events, "ols", ("face", "house"), **options))


def test_exact_coefficients_confounds_and_sample_mask() -> None:
    from nilearn.glm.first_level import run_glm

    from daskglm.design.first_level import frame_times, make_first_level_design_matrix

    run, events = make_run(), make_events(6, 20.0).sort_values("onset").reset_index(drop=True)
    confounds = pd.DataFrame(np.random.default_rng(3).standard_normal((N_VOLUMES, 2)), columns=["x", "y"])
    kept = np.arange(4, N_VOLUMES)
    found = beta_series(
        run, events, T_R, method="lss", confounds=confounds, sample_mask=kept, noise_model="ar1", bins=None,
        mask_img=MASK, signal_scaling=False, dtype="float64", n_jobs=1,
    )  # fmt: skip
    data = run.get_fdata().reshape(-1, N_VOLUMES, order="F").T[kept]
    for row in range(len(events)):
        relabelled = events.copy()
        relabelled.loc[row, "trial_type"] = "this"
        design = make_first_level_design_matrix(frame_times(N_VOLUMES, T_R), relabelled, add_regs=confounds)
        matrix = design.to_numpy()[kept]
        labels, fits = run_glm(data, matrix, noise_model="ar1", bins=10**7)
        expected = np.array([fits[labels[v]].theta[design.columns.get_loc("this"), 0] for v in range(data.shape[1])])
        # Coefficients in steps of 1e-7 are as near as nilearn comes.
        np.testing.assert_allclose(found["data"].values[row], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_samples_are_trials_in_order_of_onset() -> None:
    events = make_events(6, 20.0)
    events["trial_type"] = events["trial_type"].replace("face", "angry face")
    found = beta_series(make_run(), events, T_R, mask_img=MASK, n_jobs=1)
    check_images(found)
    assert found["data"].dtype == np.float32
    assert space_of(found).voxels.size == np.prod(SHAPE)
    names = ["house_001", "angryFace_001", "angryFace_002", "house_002", "angryFace_003", "angryFace_004"]
    assert found["sample"].values.tolist() == names
    assert found["onset"].values.tolist() == sorted(events["onset"])
    assert found["trial_type"].values.tolist() == events.sort_values("onset")["trial_type"].tolist()


def test_labels_that_differ_by_case_only_are_told_apart() -> None:
    events = make_events(6, 20.0).sort_values("onset")
    events["trial_type"] = ["go", "Go", "go!", "Go", "go", "go!"]
    found = beta_series(make_run(), events, T_R, mask_img=MASK, n_jobs=1)
    assert found["sample"].values.tolist() == ["go_001", "Go_002", "go_003", "Go_004", "go_005", "go_006"]


@pytest.mark.parametrize("method", ["lsa", "lss"])
def test_the_file_is_read_once(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.nii.gz"
    make_run().to_filename(path)
    table = tmp_path / "events.tsv"
    make_events().to_csv(table, sep="\t", index=False)
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return stream(*arguments)

    stream = runs.stream_volumes
    monkeypatch.setattr(runs, "stream_volumes", counted)
    found = beta_series(str(path), table, T_R, method=method, noise_model="ar1", mask_img=MASK, dtype="float64")
    assert len(calls) == 1
    expected = beta_series(
        make_run(), make_events(), T_R, method=method, noise_model="ar1", mask_img=MASK, dtype="float64", n_jobs=1
    )
    np.testing.assert_allclose(found["data"], expected["data"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_more_trials_than_volumes(noise: str) -> None:
    run = make_run(40)
    events = make_events(50, 1.4)
    found = beta_series(run, events, T_R, method="lss", noise_model=noise, mask_img=MASK, dtype="float64", n_jobs=1)
    assert found.sizes["sample"] == 50
    part = slice(0, 50, 8)
    assert_same(found["data"].values[part], nilearn_lss(run, events, noise, ("face", "house"), part))
    with pytest.raises(DesignError, match=r"has 5\d columns for 40 volumes; use method='lss'"):
        beta_series(run, events, T_R, mask_img=MASK)


@pytest.mark.parametrize("method", ["lsa", "lss"])
@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_a_trial_outside_the_run_is_nan(method: str, noise: str) -> None:
    run, events = make_run(), make_events()
    late = pd.concat([events, pd.DataFrame({"onset": [200.0], "duration": [1.0], "trial_type": ["face"]})])
    with pytest.warns(UserWarning, match=r"stimulus onsets|no response to trials") as record:
        found = beta_series(
            run, late, T_R, method=method, noise_model=noise, mask_img=MASK, dtype="float64", n_jobs=1
        )  # fmt: skip
    messages = [str(item.message) for item in record]
    assert len(messages) == 2
    assert "after the last scan" in messages[0]
    assert "no response to trials face_009: their betas are NaN" in messages[1]
    expected = beta_series(run, events, T_R, method=method, noise_model=noise, mask_img=MASK, dtype="float64", n_jobs=1)
    assert np.isnan(found["data"].values[-1]).all()
    assert_same(found["data"].values[:-1], expected["data"].values)


def test_a_trial_at_the_very_end_or_before_the_run_is_nan() -> None:
    run, events = make_run(), make_events()
    more = pd.DataFrame({"onset": [2 * N_VOLUMES - 2.3, -40.0], "duration": 1.0, "trial_type": "late"})
    with pytest.warns(UserWarning, match=r"stimulus onsets|no response to trials") as record:
        found = beta_series(run, pd.concat([events, more]), T_R, mask_img=MASK, n_jobs=1)
    assert "trials late_001, late_002" in str(record[-1].message)
    assert np.isnan(found["data"].sel(sample=["late_001", "late_002"])).all()
    assert np.isfinite(found["data"].drop_sel(sample=["late_001", "late_002"])).all()


def test_short_events_among_long_ones_are_estimated() -> None:
    events = make_events(6, 20.0)
    events["duration"] = [0.02, 10.0, 10.0, 10.0, 10.0, 10.0]
    assert np.isfinite(beta_series(make_run(), events, T_R, mask_img=MASK, n_jobs=1)["data"]).all()


@pytest.mark.parametrize(
    ("method", "alike", "remedy"),
    # Of the twins one is, by "lss", its condition's only trial: the other's condition as a whole differs from it.
    [("lsa", ["house_001", "twin_001"], "; use method='lss'"), ("lss", ["house_001"], "NaN$")],
)
def test_trials_that_cannot_be_told_apart_are_nan(method: str, alike: list[str], remedy: str) -> None:
    events = make_events(6, 20.0).sort_values("onset").reset_index(drop=True)
    twin = events.iloc[[0]].assign(trial_type="twin")
    with pytest.warns(UserWarning, match=f"trials {', '.join(alike)} cannot be told apart.*{remedy}"):
        found = beta_series(make_run(), pd.concat([events, twin]), T_R, method=method, mask_img=MASK, n_jobs=1)
    assert found["sample"].values[np.isnan(found["data"]).all("voxel")].tolist() == alike
    assert np.isfinite(found["data"].drop_sel(sample=alike)).all()


def test_voxels_that_do_not_vary_or_are_not_finite_are_nan() -> None:
    for method in ("lsa", "lss"):
        for noise in ("ols", "ar1"):
            values = make_run().get_fdata()
            values[0, 0, 0], values[1, 0, 0, 5] = 7.3, np.nan
            run = nib.Nifti1Image(values, np.eye(4))
            found = beta_series(run, make_events(), T_R, method=method, noise_model=noise, mask_img=MASK, n_jobs=1)
            assert np.flatnonzero(np.isnan(found["data"].values).any(axis=0)).tolist() == [0, 1]
            assert np.isnan(found["data"].values[:, :2]).all()


def test_no_voxel_at_all() -> None:
    run = nib.Nifti1Image(np.full((*SHAPE, N_VOLUMES), 3.0), np.eye(4))
    with pytest.raises(ImageError, match=r"volume 0 of .* is 3 in all"):
        beta_series(run, make_events(), T_R, mask_img=MASK, n_jobs=1)


@pytest.mark.filterwarnings("ignore:Some stimulus onsets")
def test_no_trial_at_all() -> None:
    events = pd.DataFrame({"onset": [500.0, 600.0], "duration": 1.0, "trial_type": "a"})
    with pytest.raises(DesignError, match="no trial can be estimated"):
        beta_series(make_run(), events, T_R, mask_img=MASK, n_jobs=1)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"method": "both"}, ParameterError, "method must be 'lsa' or 'lss', got 'both'"),
        ({"dtype": "int16"}, ParameterError, "dtype must be 'float32' or 'float64'"),
        ({"events": None}, DesignError, "needs events, but there are none"),
        ({"events": make_events().iloc[:0]}, DesignError, "needs events, but there are none"),
        ({"events": [1, 2]}, DesignError, "DataFrame|one item"),
        ({"conditions": "cat"}, DesignError, r"\(.*face.*\), but cat is none of them"),
        ({"conditions": []}, DesignError, "none is given"),
        ({"hrf_model": "glover + derivative"}, DesignError, "one regressor, but hrf_model 'glover \\+ derivative'"),
        ({"hrf_model": "fir"}, DesignError, "one regressor, but hrf_model 'fir'"),
        ({"hrf_model": "gloover"}, DesignError, "gloover"),
        ({"noise_model": "ar2", "bins": 5}, ParameterError, "give bins=None"),
        ({"noise_model": "arma"}, ParameterError, "noise_model"),
        ({"t_r": None}, ParameterError, "t_r"),
        ({"run_img": [make_run(), make_run()]}, ImageError, "of one run, but there are 2"),
        ({"events": make_events().replace("face", "?")}, DesignError, "'\\?' has no letter or digit"),
    ],
)
@pytest.mark.filterwarnings("ignore:Some stimulus onsets")
def test_what_cannot_be_done_is_said(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"run_img": make_run(), "events": make_events(), "t_r": T_R, "mask_img": MASK, "n_jobs": 1, **changed}
    with pytest.raises(error, match=message):
        beta_series(**given)


def test_lss_that_leaves_no_degrees_of_freedom() -> None:
    events = make_events(8, 2.0)
    confounds = np.random.default_rng(0).standard_normal((24, 20))
    with pytest.raises(DesignError, match="by method 'lss' has 24 columns for 24 volumes; use fewer confounds"):
        beta_series(
            make_run(24), events, T_R, method="lss", confounds=confounds, drift_model=None, mask_img=MASK, n_jobs=1
        )
