"""Names made safe and spaces that give back what they were given."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.glm._base import _clean_contrast_name

import daskglm
from daskglm.errors import ContrastError, ImageError, SpaceError
from daskglm.schema.names import bids_label, bids_labels, sample_ids
from daskglm.schema.space import VolumeSpace


@given(st.text(min_size=1, max_size=20))
def test_labels_are_labels(name):
    try:
        label = bids_label(name)
    except ContrastError:
        assert not any(character.isalnum() for character in name)
    else:
        assert label.isascii()
        assert label.isalnum()


@pytest.mark.filterwarnings("ignore:Contrast name")
@pytest.mark.parametrize("name", ["face - house", "a + b", "reappraisal_success", "a > b", "age"])
def test_labels_equal_nilearn(name):
    assert bids_label(name) == _clean_contrast_name(name)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("面孔 - 房子", "U9762U5B54MinusU623FU5B50"),
        ("été - naïve", "eteMinusNaive"),
        ("µ", "U03BC"),
        ("age²", "age2"),
        ("😀 > 😞", "U1F600GtU1F61E"),
        ("load=2", "load2"),
    ],
)
def test_letters_that_bids_lacks_are_not_lost(name, label):
    assert bids_label(name) == label


@pytest.mark.parametrize("names", [["a_b", "aB"], ["ab", "AB"], ["x-y", "x minus y"]])
def test_colliding_labels_are_refused(names):
    with pytest.raises(ContrastError, match="both be written"):
        bids_labels(names)


def test_sample_names():
    assert sample_ids(["a/sub-01/x.nii.gz", "a/sub-02/x.nii.gz"]) == ["sub-01", "sub-02"]
    assert sample_ids(["sub-01_A.nii", "sub-01_B.nii"]) == ["sub-01_A", "sub-01_B"]
    assert sample_ids(["x.nii", "y.nii.gz"]) == ["x", "y"]
    assert len(set(sample_ids(["p/x.nii", "q/x.nii"]))) == 2
    with pytest.raises(ImageError, match="twice"):
        sample_ids(["x.nii", "x.nii"])


@given(seed=st.integers(0, 100), count=st.integers(1, 60))
def test_vectors_become_the_same_image_again(seed, count):
    rng = np.random.default_rng(seed)
    grid = rng.standard_normal((3, 4, 5))
    mask = np.zeros(60, bool)
    mask[rng.permutation(60)[:count]] = True
    mask = mask.reshape(grid.shape)
    space = VolumeSpace.from_image(nib.Nifti1Image(grid, np.diag([2, 3, 4, 1.0])), mask)
    vector = grid.ravel(order="F")[space.voxels]
    back = np.asarray(space.to_image(vector).dataobj)
    assert np.array_equal(back[mask], grid[mask])
    assert np.isnan(back[~mask]).all()
    assert np.array_equal(space.mask, mask)
    again = VolumeSpace.from_attributes(space.attributes(), space.voxels)
    assert again.shape == space.shape
    assert np.array_equal(again.affine, space.affine)
    assert again.header == space.header
    where = space.coordinates(np.arange(count))
    assert np.allclose(
        where, nib.affines.apply_affine(space.affine, np.argwhere(mask)[np.lexsort(np.argwhere(mask).T)])
    )


def test_datasets_that_are_none():
    space = VolumeSpace.from_image(nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)))
    images = daskglm.images_dataset(np.ones((3, 8)), ["a", "b", "c"], space)
    for broken in (images.rename(data="values"), images.drop_attrs(), images.transpose("voxel", "sample")):
        with pytest.raises(ImageError, match="images dataset has"):
            daskglm.fit_glm(broken, None)
    with pytest.raises(ImageError, match="repeats: a"):
        daskglm.fit_glm(images.assign_coords(sample=["a", "a", "b"]), None)
    with pytest.raises(SpaceError, match="shape of its images"):
        VolumeSpace.from_image(nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), np.ones((3, 2, 2), bool))


def test_samples_are_named_by_what_tells_them_apart():
    assert sample_ids(["sub-1_ses-1.nii", "sub-2_ses-1.nii"]) == ["sub-1", "sub-2"]
    assert sample_ids(["sub-1_ses-1.nii", "sub-1_ses-2.nii"]) == ["sub-1_ses-1", "sub-1_ses-2"]
    assert sample_ids(["sub-1/ses-1/a.nii", "sub-1/ses-2/a.nii"]) == ["sub-1_ses-1", "sub-1_ses-2"]
    assert sample_ids(["sub-1_run-1.nii", "sub-1_run-2.nii"]) == ["sub-1_run-1", "sub-1_run-2"]
    paths = ["sub-1_ses-1_run-1.nii", "sub-1_ses-1_run-2.nii", "sub-1_ses-2_run-1.nii", "sub-1_ses-2_run-2.nii"]
    assert sample_ids(paths) == [path.removesuffix(".nii") for path in paths]
    assert sample_ids(["sub-1_cond-A.nii", "sub-1_cond-B.nii"]) == ["sub-1_cond-A", "sub-1_cond-B"]
    assert sample_ids(["x/P1/stats/con_1.nii", "x/P2/stats/con_1.nii"]) == ["P1", "P2"]
