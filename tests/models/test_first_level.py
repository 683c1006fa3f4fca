"""FirstLevelModel against nilearn's, and NumPy where nilearn has defects."""

import gzip
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from naming import without_addresses
from nilearn.glm import compute_fixed_effects as oracle_fixed_effects
from nilearn.glm.first_level import FirstLevelModel as NilearnModel
from nilearn.glm.first_level import make_first_level_design_matrix as oracle_design
from nilearn.image import smooth_img
from nilearn.maskers import NiftiMasker
from scipy import linalg, stats
from sklearn.base import clone

import daskglm
from daskglm import FirstLevelModel
from daskglm.errors import ContrastError, CorruptImageError, DesignError, ImageError, ParameterError, SpaceError
from daskglm.graph import runs as graph_runs
from daskglm.models import run_fits

SHAPE, N, TR = (6, 5, 4), 70, 2.0
AFFINE = np.diag([-3.0, 3, 4, 1])
OUTPUTS = ("z_score", "stat", "p_value", "effect_size", "effect_variance")


def quiet(function, *arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


class Subject:
    """Runs of one subject, float64, with their tables."""

    def __init__(self, folder, n_runs=2, n=N, seed=0, suffix=".nii.gz"):
        rng = np.random.default_rng(seed)
        self.mask = np.zeros(SHAPE, bool)
        self.mask[1:6, :4, 1:] = True
        self.mask_img = nib.Nifti1Image(self.mask.astype(np.uint8), AFFINE)
        self.events, self.confounds, self.data, self.paths = [], [], [], []
        for run in range(n_runs):
            onsets = np.sort(rng.uniform(0, (n - 8) * TR, 15)).round(1)
            events = pd.DataFrame(
                {"onset": onsets, "duration": rng.uniform(1, 4, 15).round(1), "trial_type": ["a", "b", "c"] * 5}
            )
            design = oracle_design(TR * np.arange(n), events)
            noise = rng.standard_normal((n, *SHAPE))
            rho = rng.uniform(-0.1, 0.6, SHAPE)
            for row in range(1, n):
                noise[row] += rho * noise[row - 1]
            beta = rng.normal(0, 3, (design.shape[1], *SHAPE))
            data = rng.uniform(80, 120, SHAPE) + np.tensordot(design.to_numpy(), beta, 1) + noise
            self.events.append(events)
            self.confounds.append(pd.DataFrame(rng.standard_normal((n, 2)), columns=["x", "y"]))
            self.data.append(np.moveaxis(data, 0, -1))
            path = folder / f"run-{run + 1}_bold{suffix}"
            nib.Nifti1Image(self.data[-1], AFFINE).to_filename(path)
            self.paths.append(str(path))


@pytest.fixture
def subject(tmp_path):
    return Subject(tmp_path)


@pytest.fixture
def single(tmp_path):
    return Subject(tmp_path, 1)


def models(subject, ours=None, theirs=None, fit=None, ours_fit=None, **parameters):
    """Both models, fitted to the same."""
    arguments = {"t_r": TR, "mask_img": subject.mask_img, **parameters}
    fit = {"events": subject.events, **(fit or {})}
    mine = FirstLevelModel(**arguments, **(ours or {})).fit(subject.paths, **{**fit, **(ours_fit or {})})
    other = quiet(NilearnModel(**arguments, **(theirs or {})).fit, subject.paths, **fit)
    return mine, other


def values(image, mask):
    return np.asarray(image.dataobj)[mask]


def assert_same_maps(ours, theirs, mask, name="", skip=None, tol=1e-8):
    """Relative to the scale of each map."""
    assert sorted(ours) == sorted(OUTPUTS)
    keep = np.ones(mask.sum(), bool) if skip is None else ~skip
    for kind in OUTPUTS:
        x, y = values(ours[kind], mask)[keep], values(theirs[kind], mask)[keep]
        assert x.shape == y.shape, (name, kind)
        scale = 1.0 if kind == "p_value" else np.abs(y).max()
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol * scale, err_msg=f"{name} {kind}")
        assert np.ptp(y) > 0
        assert np.allclose(ours[kind].affine, theirs[kind].affine)
        outside = np.asarray(ours[kind].dataobj)[~mask]
        assert (outside == (1 if kind == "p_value" else 0)).all()


def assert_same(mine, other, contrasts, mask, tol=1e-8):
    for contrast, kind in contrasts:
        ours = mine.compute_contrast(contrast, kind, "all", approximate_f=True)
        theirs = quiet(other.compute_contrast, contrast, kind, "all")
        assert_same_maps(ours, theirs, mask, f"{contrast}", tol=tol)


def f_rows(model, k=3):
    return np.eye(model.design_matrices_[0].shape[1])[:k]


@pytest.mark.parametrize("signal_scaling", [0, (0, 1), False])
@pytest.mark.parametrize(
    ("noise_model", "bins"), [("ols", 100), ("ar1", 100), ("ar1", 10), ("ar2", 10)], ids=["ols", "ar1", "ar1/10", "ar2"]
)
def test_equals_nilearn(subject, noise_model, bins, signal_scaling):
    parameters = {"noise_model": noise_model, "signal_scaling": signal_scaling, "random_state": 4}
    mine, other = models(subject, fit={"bins": bins}, **parameters)
    for k in range(2):
        np.testing.assert_allclose(mine.design_matrices_[k], other.design_matrices_[k], atol=1e-10)
    assert_same(mine, other, [("a - b", None), ("a + b - 2 * c", "t")], subject.mask)
    rows = f_rows(mine)
    assert_same(mine, other, [([rows, rows], None)], subject.mask)
    assert mine.n_elements_ == subject.mask.sum()


@pytest.mark.parametrize("signal_scaling", [0, (0, 1)])
@pytest.mark.parametrize(("noise_model", "bins"), [("ols", 100), ("ar1", 100), ("ar2", 6)])
def test_chunks_of_voxels_change_nothing(subject, monkeypatch, noise_model, bins, signal_scaling):
    """Means and clusters of a whole run, though its voxels are solved in chunks."""
    monkeypatch.setattr(run_fits, "_VOXELS_TOGETHER", 17)
    parameters = {"noise_model": noise_model, "signal_scaling": signal_scaling, "random_state": 1}
    mine, other = models(subject, fit={"bins": bins}, **parameters)
    assert len(mine.fits_[0]["solution"]) == 4
    assert_same(mine, other, [("a - b", None), ([f_rows(mine)] * 2, None)], subject.mask)


@pytest.mark.parametrize("output_type", OUTPUTS)
def test_output_types_one_by_one(single, output_type):
    mine, other = models(single)
    options = {"output_type": output_type}
    ours, theirs = mine.compute_contrast("a - b", **options), other.compute_contrast("a - b", **options)
    np.testing.assert_allclose(values(ours, single.mask), values(theirs, single.mask), rtol=1e-7, atol=1e-8)
    f = mine.compute_contrast(f_rows(mine), **options)
    g = other.compute_contrast(f_rows(mine), **options)
    assert f.shape == g.shape == ((*SHAPE, 3) if output_type == "effect_size" else SHAPE)
    np.testing.assert_allclose(values(f, single.mask), values(g, single.mask), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("n_runs", [2, 3])
def test_fixed_effects_of_runs(tmp_path, n_runs):
    subject = Subject(tmp_path, n_runs, n=60)
    mine, other = models(subject)
    assert_same(mine, other, [("a - b", None), ([f_rows(mine)] * n_runs, None)], subject.mask)
    precise = mine.compute_contrast("a - b", output_type="all", precision_weighted=True)
    alone = [
        FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(path, events)
        for path, events in zip(subject.paths, subject.events, strict=True)
    ]
    maps = [model.compute_contrast("a - b", output_type="all") for model in alone]
    freedom = [60 - len(model.design_matrices_[0].columns) for model in alone]
    expected = quiet(
        oracle_fixed_effects, [m["effect_size"] for m in maps], [m["effect_variance"] for m in maps],
        subject.mask_img, precision_weighted=True, dofs=freedom,
    )  # fmt: skip
    for kind, image in zip(("effect_size", "effect_variance", "stat", "z_score"), expected, strict=True):
        np.testing.assert_allclose(values(precise[kind], subject.mask), values(image, subject.mask), rtol=1e-8)


def arrays(data, mask):
    return data[mask].T.astype(float)


def by_hand(design, y, contrast, order=0):
    """Effect and t of a contrast by NumPy: OLS, or AR(1) with the coefficient truncated to 1 / 100."""
    effects, stats_ = np.empty(y.shape[1]), np.empty(y.shape[1])
    n, p = design.shape
    for v in range(y.shape[1]):
        w = np.eye(n)
        if order:
            e = y[:, v] - design @ np.linalg.lstsq(design, y[:, v], rcond=None)[0]
            rho = (e[1:] @ e[:-1] / (n - 1)) / (e @ e / n)
            w -= np.trunc(rho * 100) / 100 * np.eye(n, k=-1)
        x, z = w @ design, w @ y[:, v]
        beta, rss, _, _ = np.linalg.lstsq(x, z, rcond=None)
        effects[v] = contrast @ beta
        stats_[v] = effects[v] / np.sqrt(rss[0] / (n - p) * contrast @ np.linalg.inv(x.T @ x) @ contrast)
    return effects, stats_


def one_minus_other(design):
    contrast = np.zeros(design.shape[1])
    contrast[:2] = 1, -1
    return contrast


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("how", ["volume", "standardize"])
def test_scalings_that_nilearn_has_not(single, how, order):
    scaling = {"signal_scaling": 1} if how == "volume" else {"signal_scaling": False, "standardize": True}
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img, noise_model=["ols", "ar1"][order], **scaling)
    model.fit(single.paths, single.events)
    y = arrays(single.data[0], single.mask)
    if how == "volume":
        y = 100 * (y / y.mean(axis=1, keepdims=True) - 1)
    else:
        y = (y - y.mean(axis=0)) / y.std(axis=0, ddof=1)
    design = model.design_matrices_[0].to_numpy()
    effect, t = by_hand(design, y, one_minus_other(design), order)
    maps = model.compute_contrast("a - b", output_type="all")
    np.testing.assert_allclose(values(maps["effect_size"], single.mask), effect, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(values(maps["stat"], single.mask), t, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("level", [0.2, -50.0])
@pytest.mark.parametrize("signal_scaling", [0, (0, 1)])
def test_a_mean_under_one_counts_as_one(single, level, signal_scaling):
    images = nib.Nifti1Image(single.data[0] - 100 + level, AFFINE)
    single.paths = images
    with pytest.warns(UserWarning, match=r"in run 1 it is below 1 for \d+ of 60 voxels .* no percent"):
        mine, other = models(single, signal_scaling=signal_scaling)
    assert_same(mine, other, [("a - b", None)], single.mask)


@pytest.mark.parametrize("noise", ["ols", "ar1", "ar2"])
def test_percent_of_demeaned_data_is_told_with_the_number_of_voxels(single, noise):
    data = single.data[0].copy()
    inside = np.argwhere(single.mask)[:7]
    for x, y, z in inside:
        data[x, y, z] -= data[x, y, z].mean()
    run = nib.Nifti1Image(data, AFFINE)
    how = {"t_r": TR, "mask_img": single.mask_img, "noise_model": noise}
    with pytest.warns(UserWarning, match=r"below 1 for 7 of 60 voxels"):
        FirstLevelModel(**how).fit(run, single.events, bins=None if noise == "ols" else 5)
    FirstLevelModel(**how, signal_scaling=False).fit(run, single.events)
    FirstLevelModel(**how).fit(single.paths, single.events)
    with pytest.warns(UserWarning, match=r"the run it is below 1 for 7 of 60 voxels"):
        daskglm.beta_series(run, single.events[0], TR, mask_img=single.mask_img)
    far = nib.Nifti1Image(single.data[0] - 100, AFFINE)
    with pytest.warns(UserWarning, match=r"mean of their volume, but it is below 1 in volumes"):
        FirstLevelModel(**how, signal_scaling=1).fit(far, single.events)


@pytest.mark.parametrize("smoothing_fwhm", [5.0, [4.0, 6, 8]])
def test_smoothing(subject, smoothing_fwhm):
    if np.ndim(smoothing_fwhm):  # nilearn's model takes a number only, its function three
        mine = FirstLevelModel(t_r=TR, mask_img=subject.mask_img, smoothing_fwhm=smoothing_fwhm)
        mine.fit(subject.paths, subject.events)
    else:
        mine, other = models(subject, smoothing_fwhm=smoothing_fwhm)
        assert_same(mine, other, [("a - b", None)], subject.mask)
    smooth = [smooth_img(path, smoothing_fwhm) for path in subject.paths]
    apart = FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(smooth, subject.events)
    np.testing.assert_allclose(
        values(apart.compute_contrast("a - b"), subject.mask), values(mine.compute_contrast("a - b"), subject.mask),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


def test_resampling_a_file_is_no_warning(single):
    target = np.diag([-4.0, 4, 4, 1])
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img, target_affine=target).fit(single.paths, single.events)
    np.testing.assert_array_equal(model.mask_img_.affine[:3, :3], target[:3, :3])


@pytest.mark.filterwarnings("ignore:Resampling binary images")
@pytest.mark.parametrize("kind", ["path", "image"])
def test_target_affine(single, kind):
    target = np.diag([-4.0, 4, 4, 1])
    if kind == "image":
        single.paths = [nib.Nifti1Image(single.data[0], AFFINE)]
    mine, other = models(single, target_affine=target)
    mask = np.asarray(mine.mask_img_.dataobj) != 0
    assert mask.shape != SHAPE
    assert np.array_equal(mask, np.asarray(other.masker_.mask_img_.dataobj) != 0)
    assert_same(mine, other, [("a - b", None)], mask)


@pytest.mark.parametrize(
    "parameters",
    [
        {"hrf_model": "spm"}, {"hrf_model": "glover + derivative"}, {"hrf_model": "spm + derivative + dispersion"},
        {"hrf_model": None}, {"drift_model": "polynomial", "drift_order": 3}, {"drift_model": None},
        {"high_pass": 0.02}, {"slice_time_ref": 0.5}, {"min_onset": 0},
    ],
    ids=without_addresses,
)  # fmt: skip
def test_design_parameters(single, parameters):
    mine, other = models(single, **parameters)
    np.testing.assert_allclose(mine.design_matrices_[0], other.design_matrices_[0], rtol=1e-8, atol=1e-10)
    assert list(mine.design_matrices_[0].columns) == list(other.design_matrices_[0].columns)
    assert_same(mine, other, [("a - b", None)], single.mask)


def test_fir(single):
    mine, other = models(single, hrf_model="fir", fir_delays=[0, 1, 2, 3])
    assert "a_delay_3" in mine.design_matrices_[0].columns
    assert_same(mine, other, [("a_delay_2 - b_delay_2", None), (f_rows(mine, 4), None)], single.mask)


@pytest.mark.parametrize("kind", ["DataFrame", "array", "path", "csv"])
def test_confounds(subject, tmp_path, kind):
    tables = []
    for k, table in enumerate(subject.confounds):
        path = tmp_path / f"confounds-{k}.{'csv' if kind == 'csv' else 'tsv'}"
        table.to_csv(path, sep="," if kind == "csv" else "\t", index=False, float_format="%.17g")
        tables.append({"DataFrame": table, "array": table.to_numpy()}.get(kind, path))
    mine, other = models(subject, fit={"confounds": tables})
    names = list(mine.design_matrices_[0].columns)
    assert names == list(other.design_matrices_[0].columns)
    assert ("confound_0" if kind == "array" else "x") in names
    assert_same(mine, other, [("a - b", None)], subject.mask)


def test_events_as_paths(subject, tmp_path):
    paths = []
    for k, events in enumerate(subject.events):
        paths.append(tmp_path / f"run-{k + 1}_events.tsv")
        events.to_csv(paths[-1], sep="\t", index=False)
    mine, other = models(subject, fit={"events": paths})
    assert_same(mine, other, [("a - b", None)], subject.mask)
    named = FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(subject.paths, [str(path) for path in paths])
    z = [values(model.compute_contrast("a - b"), subject.mask) for model in (mine, named)]
    assert np.array_equal(*z)


def test_design_matrices(subject, tmp_path):
    tables = [oracle_design(TR * np.arange(N), events) for events in subject.events]
    arguments = {"mask_img": subject.mask_img}
    other = quiet(NilearnModel(**arguments).fit, subject.paths, design_matrices=tables)
    mine = FirstLevelModel(**arguments).fit(subject.paths, design_matrices=tables)
    assert_same(mine, other, [("a - b", None)], subject.mask)
    with pytest.warns(UserWarning, match="events and confounds are not used"):
        FirstLevelModel(**arguments).fit(subject.paths, subject.events, design_matrices=tables)
    paths = [tmp_path / f"design-{k}.tsv" for k in range(2)]
    for table, path in zip(tables, paths, strict=True):
        table.to_csv(path, sep="\t", index=False, float_format="%.17g")
    read = FirstLevelModel(**arguments).fit(subject.paths, design_matrices=paths)
    np.testing.assert_allclose(
        values(read.compute_contrast("a - b"), subject.mask), values(mine.compute_contrast("a - b"), subject.mask),
        rtol=1e-8, atol=1e-10,
    )  # fmt: skip


KEPT = np.setdiff1d(np.arange(N), [0, 1, 20, 21, 22, 40, 55, 69])


@pytest.mark.parametrize("noise_model", ["ols", "ar1", "ar2"])
@pytest.mark.parametrize("kind", ["numbers", "bool"])
def test_sample_masks_as_in_nilearn(subject, noise_model, kind):
    masks = [KEPT if kind == "numbers" else np.isin(np.arange(N), KEPT), np.arange(3, N)]
    mine, other = models(
        subject, {"contiguous": True}, fit={"bins": 10, "sample_masks": masks}, noise_model=noise_model, random_state=0
    )
    assert [len(design) for design in mine.design_matrices_] == [62, 67]
    assert_same(mine, other, [("a - b", None)], subject.mask)


def test_gaps_are_not_bridged(single):
    """By default lags stop at a gap: an explicit whitening matrix."""
    model = FirstLevelModel(t_r=TR, mask_img=single.mask_img).fit(single.paths, single.events, sample_masks=[KEPT])
    y = arrays(single.data[0], single.mask)[KEPT]
    y = 100 * (y / y.mean(axis=0) - 1)
    design = model.design_matrices_[0].to_numpy()
    assert len(design) == KEPT.size
    contrast = one_minus_other(design)
    near = np.equal.outer(KEPT - 1, KEPT).astype(float)
    assert near.sum() == KEPT.size - 4
    e = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    rho = np.sum(e * (near @ e), axis=0) / near.sum() / np.mean(e**2, axis=0)
    rho = np.trunc(rho * 100) / 100
    t = np.empty(y.shape[1])
    for v in range(t.size):
        w = np.eye(KEPT.size) - rho[v] * near
        x, z = w @ design, w @ y[:, v]
        beta, rss, _, _ = np.linalg.lstsq(x, z, rcond=None)
        spread = contrast @ np.linalg.inv(x.T @ x) @ contrast * rss[0] / (KEPT.size - design.shape[1])
        t[v] = contrast @ beta / np.sqrt(spread)
    np.testing.assert_allclose(values(model.compute_contrast("a - b", output_type="stat"), single.mask), t, rtol=1e-8)
    bridged = FirstLevelModel(t_r=TR, mask_img=single.mask_img, contiguous=True)
    bridged.fit(single.paths, single.events, sample_masks=[KEPT])
    assert not np.allclose(values(bridged.compute_contrast("a - b", output_type="stat"), single.mask), t, rtol=1e-4)


def test_volumes_without_neighbours_have_no_lags(single):
    """Every second volume: nothing to estimate a coefficient from, so ordinary least squares."""
    maps = [
        fit(single, sample_masks=[np.arange(0, N, 2)], parameters={"noise_model": name}).compute_contrast("a - b")
        for name in ("ols", "ar1", "ar2")
    ]
    z = [values(image, single.mask) for image in maps]
    assert np.ptp(z[0]) > 1
    np.testing.assert_allclose(z[1], z[0], rtol=1e-9)
    np.testing.assert_allclose(z[2], z[0], rtol=1e-9)


def test_none_in_sample_masks_keeps_all(subject):
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img)
    model.fit(subject.paths, subject.events, sample_masks=[None, np.arange(5, N)])
    assert [len(design) for design in model.design_matrices_] == [N, N - 5]


def test_contrasts_by_run(subject):
    mine, other = models(subject)
    p = mine.design_matrices_[0].shape[1]
    vector = np.zeros(p)
    vector[0] = 1
    for contrast in (["a - b", "a - c"], [vector, -vector], [vector, "b"]):
        ours = mine.compute_contrast(list(contrast), output_type="all")
        theirs = quiet(other.compute_contrast, list(contrast), output_type="all")
        assert_same_maps(ours, theirs, subject.mask, str(contrast))
    given = [vector, np.zeros(p)]
    with pytest.warns(UserWarning, match="null in run 2"):
        ours = mine.compute_contrast(given, output_type="all")
    assert_same_maps(ours, quiet(other.compute_contrast, list(given), output_type="all"), subject.mask)
    with pytest.warns(UserWarning, match="null"), pytest.raises(ContrastError, match="null in every run"):
        mine.compute_contrast([np.zeros(p)] * 2)
    for kind, image in mine.compute_contrast(["a"], output_type="all").items():
        np.testing.assert_array_equal(image.dataobj, mine.compute_contrast("a", output_type=kind).dataobj)
    with pytest.raises(ContrastError, match="one contrast a run"):
        mine.compute_contrast(["a"] * 3)


def test_a_condition_missing_in_a_run(subject):
    subject.events[1] = subject.events[1].query("trial_type != 'c'")
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(subject.paths, subject.events)
    with pytest.warns(UserWarning, match="cannot be made in runs 2"):
        found = model.compute_contrast("c - a", output_type="all")
    alone = NilearnModel(t_r=TR, mask_img=subject.mask_img)
    alone = quiet(alone.fit, subject.paths[:1], subject.events[:1])
    assert_same_maps(found, alone.compute_contrast("c - a", output_type="all"), subject.mask)
    with pytest.raises(ContrastError, match="chair"):
        model.compute_contrast("chair - a")
    both = NilearnModel(t_r=TR, mask_img=subject.mask_img)
    both = quiet(both.fit, subject.paths, subject.events)
    assert_same(model, both, [("a - b", None)], subject.mask)


def weighted_f(effects, variances, mask, dofs):
    """Precision-weighted F maps by NumPy and SciPy."""
    e = np.stack([np.asarray(image.dataobj) for image in effects])
    v = np.stack([np.asarray(image.dataobj) for image in variances])
    variance = 1 / np.sum(1 / v, axis=0)
    effect = np.sum(e / v[..., None], axis=0) * variance[..., None]
    stat = np.sum(effect**2, axis=-1) / e.shape[-1] / variance
    z = stats.norm.isf(stats.f.sf(stat, e.shape[-1], sum(dofs)))
    return [
        nib.Nifti1Image(np.where(mask[..., None] if x.ndim > 3 else mask, x, 0), AFFINE)
        for x in (effect, variance, stat, z)
    ]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dofs", [None, [50, 60, 70]])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_compute_fixed_effects(tmp_path, weighted, dofs, rows, masked):
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) < 0.7
    grid = SHAPE if rows == 1 else (*SHAPE, rows)
    # nilearn's mask of its own is of the voxels that are not at the border's value.
    effects = [nib.Nifti1Image(rng.normal(1, 1, grid), AFFINE) for _ in range(3)]
    variances = [nib.Nifti1Image(rng.uniform(0.5, 2, SHAPE), AFFINE) for _ in range(3)]
    mask_img = nib.Nifti1Image(mask.astype(np.uint8), AFFINE)
    whole = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    ours = daskglm.compute_fixed_effects(effects, variances, mask_img if masked else None, weighted, dofs)
    if weighted and rows > 1:
        # nilearn multiplies (runs, rows, voxels) by weights (runs, voxels): run weights go to rows, or it fails.
        theirs = weighted_f(effects, variances, mask if masked else np.ones(SHAPE, bool), dofs or [100] * 3)
    else:
        theirs = quiet(oracle_fixed_effects, effects, variances, mask_img if masked else whole, weighted, dofs)
    for mine, other in zip(ours, theirs, strict=True):
        x, y = np.asarray(mine.dataobj), np.asarray(other.dataobj)
        assert x.squeeze().shape == y.squeeze().shape
        np.testing.assert_allclose(x.squeeze(), y.squeeze(), rtol=1e-8, atol=1e-9)
    paths = [str(tmp_path / f"{k}.nii.gz") for k in range(6)]
    for image, path in zip([*effects, *variances], paths, strict=True):
        image.to_filename(path)
    read = daskglm.compute_fixed_effects(paths[:3], paths[3:], mask_img if masked else None, weighted, dofs)
    np.testing.assert_array_equal(np.asarray(read[3].dataobj), np.asarray(ours[3].dataobj))


def test_fixed_effects_of_maps_with_a_fourth_axis_are_t():
    rng = np.random.default_rng(8)
    effects = [nib.Nifti1Image(rng.normal(-2, 1, (*SHAPE, 1)), AFFINE) for _ in range(3)]
    variances = [nib.Nifti1Image(rng.uniform(0.5, 2, (*SHAPE, 1)), AFFINE) for _ in range(3)]
    whole = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    theirs = quiet(oracle_fixed_effects, effects, variances, whole)
    for mine, other in zip(daskglm.compute_fixed_effects(effects, variances), theirs, strict=True):
        np.testing.assert_allclose(mine.get_fdata(), other.get_fdata(), rtol=1e-8, atol=1e-9)
    assert (theirs[3].get_fdata() < 0).mean() > 0.9


def test_fixed_effects_of_a_voxel_are_of_the_runs_that_have_it():
    rng = np.random.default_rng(9)
    effects, variances = rng.normal(1, 1, (3, *SHAPE)), rng.uniform(0.5, 2, (3, *SHAPE))
    effects[1, 0, 0, 0] = variances[1, 1, 0, 0] = np.nan
    variances[1, 2, 0, 0] = 0.0
    effects[:, 3, 0, 0] = np.nan
    given = [[nib.Nifti1Image(values, AFFINE) for values in side] for side in (effects, variances)]
    two = [[side[0], side[2]] for side in given]
    found, expected = daskglm.compute_fixed_effects(*given), daskglm.compute_fixed_effects(*two)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.get_fdata()[:3, 0, 0], other.get_fdata()[:3, 0, 0])
        assert np.isnan(mine.get_fdata()[3, 0, 0])


def test_files_of_fixed_effects_are_verified(tmp_path):
    paths = [str(tmp_path / f"{k}.nii.gz") for k in range(4)]
    for path in paths:
        nib.Nifti1Image(np.random.default_rng(1).uniform(1, 2, SHAPE), AFFINE).to_filename(path)
    content = bytearray((tmp_path / "1.nii.gz").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "1.nii.gz").write_bytes(content)
    with pytest.raises(CorruptImageError, match=r"1.nii.gz"):
        daskglm.compute_fixed_effects(paths[:2], paths[2:])


def test_compute_fixed_effects_refuses():
    image = nib.Nifti1Image(np.ones(SHAPE), AFFINE)
    with pytest.raises(ImageError, match="1 and 2"):
        daskglm.compute_fixed_effects([image], [image, image])
    with pytest.raises(ImageError, match="degrees of freedom"):
        daskglm.compute_fixed_effects([image], [image], dofs=[1, 2])
    for wrong in (0, -3, np.nan, np.inf):
        with pytest.raises(ParameterError, match="degrees of freedom are positive numbers"):
            daskglm.compute_fixed_effects([image], [image], dofs=[wrong])
    with pytest.raises(ImageError, match="give effects first"):
        daskglm.compute_fixed_effects([image], [nib.Nifti1Image(-np.ones(SHAPE), AFFINE)])
    with pytest.raises(SpaceError, match="image 1"):
        daskglm.compute_fixed_effects([image], [nib.Nifti1Image(np.ones((2, 2, 2)), AFFINE)])


def stacked(images, mask):
    return [np.asarray(image.dataobj)[mask] for image in images]


def test_predicted_residuals_and_r_square_of_ols(subject):
    mine, other = models(subject, theirs={"minimize_memory": False}, noise_model="ols")
    for name in ("predicted_", "residuals_", "r_square_"):
        ours, theirs = stacked(getattr(mine, name), subject.mask), stacked(getattr(other, name), subject.mask)
        assert len(ours) == len(theirs) == 2
        for x, y in zip(ours, theirs, strict=True):
            assert x.squeeze().shape == y.squeeze().shape
            np.testing.assert_allclose(x.squeeze(), y.squeeze(), rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("signal_scaling", [0, (0, 1), False, 1])
def test_predicted_and_residuals_of_ar1_are_in_the_units_of_the_data(subject, signal_scaling):
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img, signal_scaling=signal_scaling)
    model.fit(subject.paths, subject.events, sample_masks=[KEPT, None])
    for run, (rows, data) in enumerate(zip((KEPT, np.arange(N)), subject.data, strict=True)):
        y = arrays(data, subject.mask)[rows]
        if signal_scaling is not False:
            mean = {0: y.mean(axis=0), (0, 1): y.mean(), 1: y.mean(axis=1, keepdims=True)}[signal_scaling]
            y = 100 * (y / mean - 1)
        predicted = stacked(model.predicted_, subject.mask)[run].T
        residuals = stacked(model.residuals_, subject.mask)[run].T
        np.testing.assert_allclose(predicted + residuals, y, rtol=1e-9, atol=1e-8)
        design = model.design_matrices_[run].to_numpy()
        expected = np.empty_like(y)
        for v in range(y.shape[1]):
            e = y[:, v] - design @ np.linalg.lstsq(design, y[:, v], rcond=None)[0]
            near = np.equal.outer(rows - 1, rows).astype(float)
            rho = np.trunc(100 * (e @ near @ e / near.sum()) / np.mean(e**2)) / 100
            w = np.eye(rows.size) - rho * near
            expected[:, v] = design @ np.linalg.lstsq(w @ design, w @ y[:, v], rcond=None)[0]
        np.testing.assert_allclose(predicted, expected, rtol=1e-8, atol=1e-8)
        r_square = stacked(model.r_square_, subject.mask)[run][:, 0]
        np.testing.assert_allclose(r_square, expected.var(axis=0) / y.var(axis=0), rtol=1e-8)


@pytest.mark.parametrize(
    ("bad", "signal_scaling"),
    [
        *[(np.nan, scaling) for scaling in (0, (0, 1), False, 1)],
        (np.inf, 0), (np.inf, (0, 1)),
        (np.inf, False), (np.inf, 1),
    ],
)  # fmt: skip
def test_residuals_beside_a_voxel_that_is_not_finite(single, signal_scaling, bad):
    """Other voxels have those that they have without it."""
    spoilt = single.data[0].copy()
    spoilt[2, 2, 2, 7] = bad
    others = single.mask.copy()
    others[2, 2, 2] = False
    without = nib.Nifti1Image(others.astype(np.uint8), AFFINE)
    parameters = {"signal_scaling": signal_scaling}
    clean = fit(single, parameters={**parameters, "mask_img": without})
    model = fit(single, paths=nib.Nifti1Image(spoilt, AFFINE), parameters=parameters)
    for name in ("predicted_", "residuals_", "r_square_"):
        if signal_scaling == 1:
            # The mean of volume 7 has one voxel less, that of the others has it.
            found = stacked(getattr(model, name), others)[0]
            assert np.isfinite(found).all()
            continue
        found, expected = (stacked(getattr(m, name), others)[0] for m in (model, clean))
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8, err_msg=name)


def blob(folder, n_runs=2):
    """A bright ball in noise, large enough for nilearn's EPI mask."""
    rng = np.random.default_rng(6)
    grid = (16, 16, 14)
    near = sum((np.arange(s).reshape([-1 if k == a else 1 for k in range(3)]) - s / 2) ** 2
               for a, s in enumerate(grid)) < 30  # fmt: skip
    paths, events = [], []
    for run in range(n_runs):
        data = np.where(near, 1000.0, 20.0)[..., None] + rng.normal(0, 8, (*grid, 40))
        paths.append(str(folder / f"blob-{run}.nii.gz"))
        nib.Nifti1Image(data, AFFINE).to_filename(paths[-1])
        onsets = np.sort(rng.uniform(0, 60, 8))
        events.append(pd.DataFrame({"onset": onsets, "duration": 2.0, "trial_type": ["a", "b"] * 4}))
    return paths, events, near


@pytest.mark.parametrize("n_runs", [1, 2])
def test_mask_none_is_nilearns_epi_mask(tmp_path, n_runs):
    paths, events, near = blob(tmp_path, n_runs)
    mine = FirstLevelModel(t_r=TR).fit(paths, events)
    other = quiet(NilearnModel(t_r=TR).fit, paths, events)
    mask = np.asarray(mine.mask_img_.dataobj) != 0
    assert np.array_equal(mask, np.asarray(other.masker_.mask_img_.dataobj) != 0)
    assert 0 < mask.sum() < mask.size / 2
    assert mask[near].mean() > 0.8
    assert_same(mine, other, [("a - b", None)], mask)


def test_masks_of_every_kind(single, tmp_path):
    path = str(tmp_path / "mask.nii.gz")
    single.mask_img.to_filename(path)
    masker = NiftiMasker(mask_img=single.mask_img, standardize=None).fit()
    z = [
        np.asarray(FirstLevelModel(t_r=TR, mask_img=m).fit(single.paths, single.events).compute_contrast("a").dataobj)
        for m in (single.mask_img, path, masker)
    ]
    assert np.array_equal(z[0], z[1])
    assert np.array_equal(z[0], z[2])
    whole = FirstLevelModel(t_r=TR, mask_img=False).fit(single.paths, single.events)
    assert whole.n_elements_ == np.prod(SHAPE)
    everywhere = np.asarray(whole.compute_contrast("a").dataobj)
    np.testing.assert_allclose(everywhere[single.mask], z[0][single.mask], rtol=1e-9)
    assert (z[0][~single.mask] == 0).all()
    assert (everywhere != 0).all()
    with pytest.raises(ImageError, match="call its fit first"):
        FirstLevelModel(t_r=TR, mask_img=NiftiMasker(standardize=None)).fit(single.paths, single.events)


def test_paths_proxies_and_memory_are_equal(subject, tmp_path):
    plain = Subject(tmp_path, suffix=".nii")
    inputs = {
        "paths": subject.paths, "tuple": tuple(subject.paths), "plain": plain.paths,
        "glob": str(tmp_path / "run-*_bold.nii.gz"), "proxies": [nib.load(path) for path in subject.paths],
        "memory": [nib.Nifti1Image(data, AFFINE) for data in subject.data],
        "mixed": [subject.paths[0], nib.Nifti1Image(subject.data[1], AFFINE)],
    }  # fmt: skip
    maps = {
        name: FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(given, subject.events).compute_contrast("a - b")
        for name, given in inputs.items()
    }
    expected = values(maps.pop("paths"), subject.mask)
    assert np.ptp(expected) > 1
    for name, image in maps.items():
        np.testing.assert_allclose(values(image, subject.mask), expected, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_threads_change_nothing(subject, n_jobs):
    one = FirstLevelModel(t_r=TR, mask_img=subject.mask_img, n_jobs=1).fit(subject.paths, subject.events)
    other = FirstLevelModel(t_r=TR, mask_img=subject.mask_img, n_jobs=n_jobs).fit(subject.paths, subject.events)
    z = [values(model.compute_contrast("a - b"), subject.mask) for model in (one, other)]
    np.testing.assert_allclose(*z, rtol=1e-10)


@pytest.mark.parametrize("signal_scaling", [0, 1, (0, 1), False])
@pytest.mark.parametrize("smoothing_fwhm", [None, 5.0])
def test_a_long_plain_file_is_read_in_stretches(tmp_path, signal_scaling, smoothing_fwhm):
    """Several stretches of one run, in parallel: the same as from one .nii.gz, and nilearn's."""
    subject = Subject(tmp_path, 1, n=270, suffix=".nii")
    packed = [nib.load(path) for path in subject.paths]
    packed[0].to_filename(tmp_path / "packed.nii.gz")
    parameters = {"signal_scaling": signal_scaling, "smoothing_fwhm": smoothing_fwhm}
    four = fit(subject, parameters={**parameters, "n_jobs": 4})
    one = fit(subject, paths=str(tmp_path / "packed.nii.gz"), parameters={**parameters, "n_jobs": 1})
    maps = [model.compute_contrast("a - b", output_type="all") for model in (four, one)]
    assert_same_maps(*maps, subject.mask)
    residuals = [stacked(model.residuals_, subject.mask)[0] for model in (four, one)]
    np.testing.assert_allclose(*residuals, rtol=1e-7, atol=1e-7)
    if signal_scaling != 1:
        _, other = models(subject, **parameters)
        assert_same(four, other, [("a - b", None)], subject.mask)


@pytest.mark.parametrize("bad", ["constant", "nan"])
@pytest.mark.parametrize("noise_model", ["ols", "ar1", "ar2"])
def test_a_bad_voxel_is_nan_and_touches_no_other(subject, bad, noise_model):
    spoilt = [data.copy() for data in subject.data]
    spoilt[0][2, 2, 2] = 5.0
    if bad == "nan":
        spoilt[0][2, 2, 2, 7] = np.nan
    images = [nib.Nifti1Image(data, AFFINE) for data in spoilt]
    arguments = {"t_r": TR, "mask_img": subject.mask_img, "noise_model": noise_model}
    clean = FirstLevelModel(**arguments).fit(subject.paths, subject.events).compute_contrast("a - b")
    model = FirstLevelModel(**arguments).fit(images, subject.events)
    found = np.asarray(model.compute_contrast("a - b").dataobj)
    others = subject.mask.copy()
    others[2, 2, 2] = False
    np.testing.assert_allclose(found[others], np.asarray(clean.dataobj)[others], rtol=1e-9)
    # The second run has it.
    second = FirstLevelModel(**arguments).fit(subject.paths[1], subject.events[1]).compute_contrast("a - b")
    np.testing.assert_allclose(found[2, 2, 2], np.asarray(second.dataobj)[2, 2, 2], rtol=1e-9)
    first = FirstLevelModel(**arguments).fit(images[0], subject.events[0]).compute_contrast("a - b")
    assert np.isnan(np.asarray(first.dataobj)[2, 2, 2])


def test_estimator_conventions(subject):
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img, noise_model="ols", signal_scaling=False)
    ours, theirs = model.get_params(), NilearnModel().get_params()
    assert set(theirs) <= set(ours)
    different = {k for k in theirs if FirstLevelModel().get_params()[k] != theirs[k]}
    assert different <= {"n_jobs"}
    copy = clone(model)
    assert copy.get_params()["noise_model"] == "ols"
    assert copy is not model
    assert copy.set_params(noise_model="ar2").noise_model == "ar2"
    assert model.noise_model == "ols"
    for use in (lambda: model.transform(None), lambda: model.compute_contrast("a"), lambda: model.residuals_):
        with pytest.raises(Exception, match="not fitted"):
            use()
    beta = model.fit_transform(subject.paths, events=subject.events)
    design = [table.to_numpy() for table in model.design_matrices_]
    expected = [
        np.linalg.lstsq(x, arrays(data, subject.mask), rcond=None)[0]
        for x, data in zip(design, subject.data, strict=True)
    ]
    order = np.argsort(np.ravel_multi_index(np.nonzero(subject.mask), SHAPE, order="F"))
    np.testing.assert_allclose(beta, np.concatenate(expected)[:, order], rtol=1e-8, atol=1e-9)
    table = clone(model).set_output(transform="pandas").fit_transform(subject.paths, events=subject.events)
    assert isinstance(table, pd.DataFrame)
    assert table.index[0] == "run-1 a"
    assert table.index[-1] == "run-2 constant"
    assert list(table.columns) == list(model.get_feature_names_out())
    np.testing.assert_array_equal(table.to_numpy(), beta)
    np.testing.assert_array_equal(model.transform(None), beta)


def test_memory_keeps_fits(subject, tmp_path, monkeypatch):
    arguments = {"t_r": TR, "mask_img": subject.mask_img, "memory": str(tmp_path / "cache")}
    first = FirstLevelModel(**arguments).fit(subject.paths, subject.events).compute_contrast("a - b", output_type="all")

    def refuse(*_, **__):
        raise AssertionError("an image was read")

    monkeypatch.setattr(graph_runs, "stream_volumes", refuse)
    again = FirstLevelModel(**arguments).fit(subject.paths, subject.events)
    second = again.compute_contrast("a - b", output_type="all")
    for kind in OUTPUTS:
        assert np.array_equal(np.asarray(first[kind].dataobj), np.asarray(second[kind].dataobj))
    assert again.predicted_[0].shape == (*SHAPE, N)
    # What the fit depends on is in the key.
    for other in ({"noise_model": "ar2"}, {"signal_scaling": (0, 1)}, {"smoothing_fwhm": 4}, {"high_pass": 0.02},
                  {"signal_scaling": 1}, {"mask_img": False}, {"memory_level": 0}):  # fmt: skip
        with pytest.raises(AssertionError, match="was read"):
            FirstLevelModel(**{**arguments, **other}).fit(subject.paths, subject.events)
    with pytest.raises(AssertionError, match="was read"):
        FirstLevelModel(**arguments).fit(subject.paths, subject.events, bins=None)
    monkeypatch.undo()
    nib.Nifti1Image(subject.data[0] * np.linspace(1, 2, N), AFFINE).to_filename(subject.paths[0])
    changed = FirstLevelModel(**arguments).fit(subject.paths, subject.events).compute_contrast("a - b")
    assert not np.allclose(np.asarray(changed.dataobj), np.asarray(first["z_score"].dataobj))


def test_contrasts_read_nothing(subject, monkeypatch):
    model = FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(subject.paths, subject.events)
    monkeypatch.setattr(graph_runs, "stream_volumes", None)
    for path in subject.paths:
        open(path, "wb").close()
    assert np.ptp(values(model.compute_contrast("a - b"), subject.mask)) > 1
    assert model.r_square_[0].shape == (*SHAPE, 1)


def test_fit_reads_each_run_once(subject, monkeypatch):
    opened = []
    real = graph_runs.stream_volumes

    def counted(path, *arguments):
        opened.append(path)
        return real(path, *arguments)

    monkeypatch.setattr(graph_runs, "stream_volumes", counted)
    FirstLevelModel(t_r=TR, mask_img=subject.mask_img).fit(subject.paths, subject.events)
    assert sorted(opened) == sorted(subject.paths)


def fit(subject, events=None, paths=None, parameters=None, **named):
    arguments = {"t_r": TR, "mask_img": subject.mask_img, **(parameters or {})}
    events = subject.events if events is None else events
    return FirstLevelModel(**arguments).fit(subject.paths if paths is None else paths, events, **named)


def test_bad_events(single):
    good = single.events[0]
    with pytest.raises(DesignError, match="'onset'"):
        fit(single, good.drop(columns="onset"))
    with pytest.raises(DesignError, match=r"'onset'.*nan"):
        fit(single, good.assign(onset=[np.nan, *good["onset"][1:]]))
    with pytest.raises(DesignError, match=r"'duration'.*negative"):
        fit(single, good.assign(duration=-1.0))
    late = pd.concat([good, pd.DataFrame({"onset": [500.0], "duration": [2.0], "trial_type": ["a"]})])
    with pytest.warns(UserWarning, match="500"):
        fit(single, late.reset_index(drop=True))
    with pytest.warns(UserWarning, match="Duplicated events.*summed"):
        fit(single, pd.concat([good, good[:1]], ignore_index=True))
    with pytest.raises(ParameterError, match="2 for 1 runs"):
        fit(single, [good, good])
    with pytest.raises(DesignError, match="none of them was given"):
        FirstLevelModel(t_r=TR).fit(single.paths)


def test_bad_parameters(single):
    with pytest.raises(ParameterError, match="t_r"):
        fit(single, parameters={"t_r": None})
    with pytest.raises(ParameterError, match=r"'ols' or 'arN'.*'arma'"):
        fit(single, parameters={"noise_model": "arma"})
    for wrong in (2, "voxel", None, True, (1, 0)):
        with pytest.raises(ParameterError, match="signal_scaling"):
            fit(single, parameters={"signal_scaling": wrong})
    with pytest.raises(ParameterError, match="bins"):
        fit(single, bins=0)
    with pytest.raises(ParameterError, match="smoothing_fwhm"):
        fit(single, parameters={"smoothing_fwhm": -3})
    model = fit(single)
    with pytest.raises(ContrastError, match=r"z_score.*'zscore'"):
        model.compute_contrast("a", output_type="zscore")
    with pytest.raises(ContrastError, match="'t' or 'F'"):
        model.compute_contrast("a", "z")
    with pytest.raises(ContrastError, match="chair"):
        model.compute_contrast("chair")


def test_bad_confounds_and_sample_masks(single):
    with pytest.raises(DesignError, match="69 rows for 70 volumes"):
        fit(single, confounds=[single.confounds[0][:-1]])
    holed = single.confounds[0].copy()
    holed.loc[3, "x"] = np.nan
    with pytest.raises(DesignError, match="contain NaN values, in row 3"):
        fit(single, confounds=[holed])
    for wrong, message in (
        ([5, 70], "70"), ([-1, 3], "-1"), ([3, 3], "repetitions"), (np.ones(69, bool), "69 for 70"),
        (np.linspace(0, 60, 40), "float64"),
    ):  # fmt: skip
        with pytest.raises(ParameterError, match=message):
            fit(single, sample_masks=[np.asarray(wrong)])
    with pytest.raises(ParameterError, match="2 for 1 runs"):
        fit(single, sample_masks=[None, None])


@pytest.mark.filterwarnings("ignore:a design of .* columns has rank")
@pytest.mark.parametrize("noise", ["ols", "ar1"])
def test_a_saturated_design_warns_and_gives_nan(single, noise):
    """nilearn divides by zero there: infinite t, or noise."""
    crowd = pd.DataFrame(np.random.default_rng(0).standard_normal((N, N)))
    for given in ({"sample_masks": [np.arange(6)]}, {"confounds": [crowd]}):
        with pytest.warns(UserWarning, match="saturates .* no degrees of freedom are left"):
            model = fit(single, parameters={"noise_model": noise}, **given)
        assert np.isnan(model.fits_[0]["residual_variance"].values).all()
        assert not model.fits_[0]["degrees_of_freedom"].values.any()


def test_one_confound_as_a_series(single):
    """A table of one column."""
    model = fit(single, confounds=[single.confounds[0]["x"]])
    assert "x" in model.design_matrices_[0].columns


@pytest.mark.parametrize("order", [N - 1, N, 2 * N])
def test_an_order_beyond_the_volumes_is_refused(single, order):
    with pytest.raises((DesignError, ParameterError), match=r"order|volumes"):
        fit(single, parameters={"noise_model": f"ar{order}"})


def test_bad_images(subject, tmp_path):
    path = tmp_path / "short.nii.gz"
    with open(subject.paths[1], "rb") as file:
        whole = file.read()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptImageError, match=r"short\.nii\.gz"):
        fit(subject, paths=[subject.paths[0], str(path)])
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1000]))
    with pytest.raises(CorruptImageError, match=r"short\.nii\.gz"):
        fit(subject, paths=[subject.paths[0], str(path)])
    other = nib.Nifti1Image(np.zeros((5, 5, 4, N)), AFFINE)
    with pytest.raises(SpaceError, match="run 2"):
        fit(subject, paths=[subject.paths[0], other])
    moved = nib.Nifti1Image(subject.data[1], np.diag([-2.0, 3, 4, 1]))
    with pytest.raises(SpaceError, match="run 2"):
        fit(subject, paths=[subject.paths[0], moved])
    for shape in (SHAPE, (*SHAPE, 1)):
        flat = nib.Nifti1Image(np.zeros(shape), AFFINE)
        with pytest.raises(ImageError, match="at least 2 volumes"):
            fit(subject, paths=[flat, flat])
    with pytest.raises(ImageError, match="empty"):
        fit(subject, paths=[])
    with pytest.raises(ImageError, match=r"paths or nibabel images"):
        fit(subject, paths=[3, 4])
    with pytest.raises(ImageError, match=r"absent\.nii\.gz"):
        fit(subject, paths=[subject.paths[0], str(tmp_path / "absent.nii.gz")])
    zeros = nib.Nifti1Image(np.zeros((*SHAPE, N)), AFFINE)
    with pytest.raises(ImageError, match="volume 0 of an image in memory is 0 in all"):
        fit(subject, paths=[subject.paths[0], zeros])


def test_bad_masks(single):
    nothing = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    with pytest.raises(SpaceError, match="empty"):
        fit(single, parameters={"mask_img": nothing})
    with pytest.raises(SpaceError, match="mask"):
        fit(single, parameters={"mask_img": nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), AFFINE)})
    with pytest.raises(ParameterError, match="mask_img"):
        fit(single, parameters={"mask_img": 5})


def test_far_tails(single):
    """|t| > 40 at every voxel: z is finite and as nilearn's, where it is not clipped."""
    design = oracle_design(TR * np.arange(N), single.events[0])
    signal = 100 + np.tensordot(np.random.default_rng(1).uniform(50, 80, SHAPE), design["a"].to_numpy(), 0)
    single.paths = nib.Nifti1Image(signal + 0.1 * (single.data[0] - 100), AFFINE)
    mine, _ = models(single, noise_model="ols")
    maps = mine.compute_contrast("a", output_type="all")
    t, z = values(maps["stat"], single.mask), values(maps["z_score"], single.mask)
    assert (t > 40).all()
    log_tail = stats.t.logsf(t, N - design.shape[1])
    assert np.isfinite(z).all()
    np.testing.assert_allclose(stats.norm.logsf(z), log_tail, rtol=1e-8)


def test_rank_deficient_confounds(single):
    """The same column twice: nilearn's effects, its variance times (n - columns) / (n - rank)."""
    twice = single.confounds[0].assign(again=single.confounds[0]["x"] * 2)
    with pytest.warns(UserWarning, match=r"columns has rank"):
        mine, other = models(single, fit={"confounds": [twice]}, noise_model="ols")
    p = mine.design_matrices_[0].shape[1]
    ours, theirs = (model.compute_contrast("a - b", output_type="all") for model in (mine, other))
    pairs = {kind: (values(ours[kind], single.mask), values(theirs[kind], single.mask)) for kind in OUTPUTS}
    np.testing.assert_allclose(*pairs["effect_size"], rtol=1e-8)
    variance, biased = pairs["effect_variance"]
    np.testing.assert_allclose(variance, biased * (N - p) / (N - p + 1), rtol=1e-8)
    with pytest.raises(ContrastError, match="not estimable"):
        mine.compute_contrast("x")


def test_higher_orders_without_bins(single):
    """ar3, each voxel with its own coefficients, against explicit whitening."""
    model = fit(single, parameters={"noise_model": "ar3", "signal_scaling": False})
    design = model.design_matrices_[0].to_numpy()
    contrast, y = one_minus_other(design), arrays(single.data[0], single.mask)
    t = np.empty(y.shape[1])
    for v in range(t.size):
        e = y[:, v] - design @ np.linalg.lstsq(design, y[:, v], rcond=None)[0]
        r = [e[k:] @ e[: N - k] / (N - k) for k in range(4)]
        rho = linalg.solve(linalg.toeplitz(r[:3]), r[1:])
        w = np.eye(N) - sum(rho[k] * np.eye(N, k=-k - 1) for k in range(3))
        x, z = w @ design, w @ y[:, v]
        beta, rss, _, _ = np.linalg.lstsq(x, z, rcond=None)
        t[v] = contrast @ beta / np.sqrt(rss[0] / (N - x.shape[1]) * contrast @ np.linalg.inv(x.T @ x) @ contrast)
    np.testing.assert_allclose(values(model.compute_contrast("a - b", output_type="stat"), single.mask), t, rtol=1e-8)


@pytest.mark.parametrize("volumes", [slice(20, 21), slice(None)], ids=["in one volume", "throughout"])
@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
def test_one_missing_voxel_and_smoothing(single, noise_model, volumes):
    """Its neighbours are weighted means of the others, by hand; as zero it took their t from -30 to -9."""
    data = single.data[0].copy()
    data[3, 2, 2, volumes] = np.nan
    seen = np.isfinite(data)
    blurred, weights = (
        smooth_img(nib.Nifti1Image(values, AFFINE), 6).get_fdata() for values in (np.where(seen, data, 0), seen * 1.0)
    )
    options = {"t_r": TR, "noise_model": noise_model, "minimize_memory": False}
    mine = FirstLevelModel(mask_img=single.mask_img, smoothing_fwhm=6, **options)
    mine.fit(nib.Nifti1Image(data, AFFINE), single.events)
    others = single.mask.copy()
    others[3, 2, 2] = False
    mask_img = nib.Nifti1Image(others.astype(np.uint8), AFFINE)
    by_hand = nib.Nifti1Image(np.where(seen, blurred / np.where(seen, weights, 1), 0), AFFINE)
    other = quiet(NilearnModel(mask_img=mask_img, **options).fit, by_hand, single.events)
    ours, theirs = (model.compute_contrast("a - b", output_type="stat").get_fdata() for model in (mine, other))
    np.testing.assert_allclose(ours[others], theirs[others], rtol=1e-6, atol=1e-8)
    assert np.isnan(ours[3, 2, 2])
