"""Thirty real contrast maps: sign flips of their mean and permutations of a score, against nilearn and statsmodels."""

import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols as nilearn_ols
from scipy import stats

from daskglm import VolumeSpace, non_parametric_inference, permuted_ols

NAME = "reappraisal_success"
FORMING = 0.001
OURS, THEIRS = 5000, 300


class Maps:
    """Files, design, values (30, ...) and the voxels that all and half of the subjects have."""

    def __init__(self, folder):
        self.paths = [str(path) for path in sorted(folder.glob("*_statmap.nii.gz"))]
        table = pd.read_csv(folder / "participants.tsv", sep="\t")
        self.design = pd.DataFrame({NAME: table[NAME].astype(float), "intercept": 1.0})
        self.data = np.stack([np.asarray(nib.load(path).dataobj) for path in self.paths]).astype(np.float64)
        self.count = np.isfinite(self.data).sum(axis=0)
        self.complete = (self.count == 30) & (np.nan_to_num(self.data).std(axis=0) > 0)
        self.affine = nib.load(self.paths[0]).affine

    def mask(self, where):
        return nib.Nifti1Image(where.astype(np.uint8), self.affine)

    def tested(self, name):
        return self.design[NAME].to_numpy() if name == NAME else np.ones(30)


@pytest.fixture(scope="module")
def maps(emotion_regulation):
    return Maps(emotion_regulation)


@pytest.fixture(scope="module", params=["intercept", NAME])
def nulls(request, maps):
    """nilearn's result on voxels that all have, and our nulls on them."""
    name = request.param
    masker = NiftiMasker(maps.mask(maps.complete), standardize=None).fit()
    values, x = maps.data[:, maps.complete], maps.tested(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nilearn's own, of 64-bit integers and contiguity
        theirs = nilearn_ols(
            x[:, None], values, n_perm=THEIRS, random_state=0, n_jobs=1, masker=masker, threshold=FORMING
        )
    in_file = np.argsort(np.ravel_multi_index(np.nonzero(maps.complete), maps.complete.shape, order="F"))
    space = VolumeSpace.from_image(masker.mask_img_, maps.complete)
    found = permuted_ols(x, values[:, in_file], n_perm=OURS, random_state=1, masker=space, threshold=FORMING)
    return found, theirs, in_file


def test_observed_maps_equal_nilearn(nulls):
    found, theirs, in_file = nulls
    np.testing.assert_allclose(found["t"], theirs["t"][:, in_file], atol=1e-8, rtol=1e-8)
    np.testing.assert_array_equal(found["size"], theirs["size"][:, in_file])
    np.testing.assert_allclose(found["mass"], theirs["mass"][:, in_file], atol=1e-6)


@pytest.mark.parametrize("statistic", ["t", "size", "mass"])
def test_thresholds_at_5_percent_equal_nilearn(nulls, statistic):
    """The chance of more than our k-th largest of m is Beta(k, m + 1 - k), whatever the distribution.

    So the number of nilearn's maxima beyond it is beta-binomial, which has the Monte Carlo error of both.
    """
    found, theirs, _ = nulls
    null, other = found[f"h0_max_{statistic}"][0], theirs[f"h0_max_{statistic}"][0]
    assert (null.size, other.size) == (OURS, THEIRS)
    k = OURS // 20
    threshold = np.sort(null)[-k]
    low, high = stats.betabinom.ppf([5e-4, 1 - 5e-4], THEIRS, k, OURS + 1 - k)
    # Sizes have ties: the number lies between those beyond and those at least there.
    assert (other > threshold).sum() <= high
    assert (other >= threshold).sum() >= low
    assert stats.ks_2samp(null, other, method="asymp").pvalue > 1e-4


def test_corrected_p_equal_nilearn(nulls):
    found, theirs, in_file = nulls
    for name in ("t", "size", "mass"):
        ours, other = (result[f"logp_max_{name}"][0] for result in (found, theirs))
        inside = (np.abs(found[name][0]) > 0) & (found["size"][0] > 0)
        assert inside.sum() > 100
        p, q = 10 ** -ours[inside], 10 ** -other[in_file][inside]
        error = np.sqrt(p * (1 - p) * (1 / OURS + 1 / THEIRS))
        assert (np.abs(p - q) <= 5 * error + 3 / THEIRS).all(), name


@pytest.mark.parametrize("name", ["intercept", NAME])
def test_all_maps_from_files(maps, name):
    design = maps.design if name == NAME else maps.design[["intercept"]]
    half = maps.count >= 15
    found = non_parametric_inference(
        maps.paths, None, design, name, mask=maps.mask(half), two_sided_test=True, n_perm=100, random_state=0,
        threshold=FORMING, tfce=True,
    )  # fmt: skip
    values = {key: image.get_fdata() for key, image in found.items() if not key.startswith("h0_")}
    # Voxels that all have are nilearn's, which counts what is missing as zero.
    masker = NiftiMasker(maps.mask(maps.complete), standardize=None).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = nilearn_ols(maps.tested(name)[:, None], maps.data[:, maps.complete], n_perm=0, n_jobs=1, masker=masker)
    np.testing.assert_allclose(values["t"][maps.complete], theirs["t"][0], atol=1e-6)
    # The others are those of the subjects that have them.
    partial = np.argwhere(half & (maps.count < 30))
    for voxel in map(tuple, np.random.default_rng(0).permutation(partial)[:100]):
        y = maps.data[(slice(None), *voxel)]
        seen = np.isfinite(y)
        fit = sm.OLS(y[seen], design.to_numpy()[seen]).fit()
        np.testing.assert_allclose(values["t"][voxel], fit.tvalues[0], atol=1e-6, rtol=1e-6)
    for key in ("logp_max_t", "logp_max_tfce", "logp_max_size", "logp_max_mass", "logp_t", "logp_tfce"):
        assert not values[key][~half].any()
        assert (values[key] >= 0).all()
        assert values[key].max() <= np.log10(101) + 1e-9
    assert (values["logp_t"][half] >= values["logp_max_t"][half] - 1e-9).all()
    assert (np.sign(values["tfce"][half]) * np.sign(values["t"][half]) >= 0).all()
    inside = values["size"] > 0
    assert ((values["mass"] > 0) == inside).all()
