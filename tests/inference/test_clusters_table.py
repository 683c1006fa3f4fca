"""Tables of clusters, against nilearn and against known truth."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from daskglm.errors import ImageError, ParameterError
from daskglm.inference.clusters import get_clusters_table

AFFINE = np.array([[-3.0, 0, 0, 30], [0, 3.0, 0, -20], [0, 0, 4.0, -10], [0, 0, 0, 1]])
SHAPE = (18, 16, 14)
ORACLE = importlib.import_module("nilearn.reporting.get_clusters_table")
COLUMNS = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
seeds = st.integers(0, 2**32 - 1)


def image_of(grid: np.ndarray, affine: np.ndarray = AFFINE) -> Any:
    return nib.Nifti1Image(grid, affine)


def smooth_map(seed: int, dtype: type = np.float64) -> np.ndarray:
    z = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1.0)
    return (z / z.std()).astype(dtype)


def prune(xyz: np.ndarray, ijk: np.ndarray, vals: np.ndarray, min_distance: float) -> tuple[np.ndarray, np.ndarray]:
    """What nilearn's pruning says it does: no peak near one that is kept."""
    keep: list[int] = []
    for index in range(len(xyz)):
        if all(np.linalg.norm(xyz[index] - xyz[other]) > min_distance for other in keep):
            keep.append(index)
    return ijk[keep], vals[keep]


def nilearn(*args: Any, pruning: Any = prune, **kwargs: Any) -> Any:
    """nilearn's answer, without its warnings."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if pruning is not None:
            patch.setattr(ORACLE, "_pare_subpeaks", pruning)
        return ORACLE.get_clusters_table(*args, **kwargs)


def quiet(*args: Any, **kwargs: Any) -> Any:
    """Our answer, without the warning that a sign has no cluster."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No clusters found")
        return get_clusters_table(*args, **kwargs)


def consecutive(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its clusters numbered from 1 without gaps, and their peaks lettered."""
    table = table.copy()
    number, names = 0, []
    for name in table["Cluster ID"]:
        is_first = not isinstance(name, str)
        number += is_first
        names.append(number if is_first else f"{number}{name[-1]}")
    table["Cluster ID"] = pd.Series(names, dtype=object, index=table.index)
    return table


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(found.columns) == COLUMNS == list(expected.columns)
    for name in ("Cluster ID", "Cluster Size (mm3)"):
        assert found[name].tolist() == expected[name].tolist()
    for name in ("X", "Y", "Z", "Peak Stat"):
        np.testing.assert_allclose(found[name].astype(float), expected[name].astype(float), rtol=0, atol=1e-8)


@given(
    seeds,
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
    st.sampled_from([0, 1, 5, 20]),
    st.booleans(),
    st.sampled_from([4.0, 8.0, 20.0]),
    st.sampled_from([np.float64, np.float32]),
)
def test_equals_nilearn(
    seed: int, threshold: float, cluster_threshold: int, two_sided: bool, distance: float, dtype: type
) -> None:
    stat_img = image_of(smooth_map(seed, dtype))
    how = (threshold, cluster_threshold, two_sided, distance)
    assert_same(quiet(stat_img, *how), consecutive(nilearn(stat_img, *how)))


@given(seeds, st.sampled_from([1.0, 2.0]), st.sampled_from([0, 5]), st.booleans())
def test_label_maps_are_numbered_as_the_table(
    seed: int, threshold: float, cluster_threshold: int, two_sided: bool
) -> None:
    stat_img = image_of(smooth_map(seed))
    table, maps = quiet(stat_img, threshold, cluster_threshold, two_sided, return_label_maps=True)
    expected = nilearn(stat_img, threshold, cluster_threshold, two_sided, return_label_maps=True)[1]
    assert len(maps) == 1 + two_sided
    offset = 0
    for found, theirs in zip(maps, expected, strict=True):
        labels = np.asarray(found.dataobj)
        assert labels.dtype == np.int32
        theirs = np.asarray(theirs.dataobj)
        np.testing.assert_array_equal(labels, np.where(theirs > 0, theirs + offset, 0))
        offset += theirs.max()
    whole = sum(np.asarray(found.dataobj) for found in maps)
    for row in table.itertuples(index=False):
        x, y, z = np.round(np.linalg.solve(AFFINE, [*row[1:4], 1])[:3]).astype(int)
        assert str(whole[x, y, z]) == str(row[0]).rstrip("abc")
        assert smooth_map(seed)[x, y, z] == row[4]
        if row[5] != "":
            assert row[5] == (whole == row[0]).sum() * 36


@given(seeds, st.floats(0.1, 2.5))
def test_clusters_are_those_of_ndimage(seed: int, threshold: float) -> None:
    stat_img = image_of(smooth_map(seed))
    labels = np.asarray(quiet(stat_img, threshold, return_label_maps=True)[1][0].dataobj)
    expected, count = ndimage.label(smooth_map(seed) > threshold)
    assert labels.max() == count
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1


def test_ids_do_not_skip() -> None:
    grid = smooth_map(4)
    table = get_clusters_table(image_of(grid), 1.5, 3, two_sided=True)
    numbers = [name for name in table["Cluster ID"] if not isinstance(name, str)]
    assert numbers == list(range(1, len(numbers) + 1))
    theirs = [name for name in nilearn(image_of(grid), 1.5, 3, True)["Cluster ID"] if not isinstance(name, str)]
    assert len(theirs) == len(numbers)
    assert theirs != numbers


def test_subpeaks_are_apart_from_the_peak() -> None:
    # 5 at 6 mm, 4 at 24 mm, 3 at 12 mm: the last is near the first, far from the second.
    grid = np.zeros((16, 3, 3))
    grid[:13, 1, 1] = [1, 2, 5, 1, 3, 1, 1, 2, 4, 3, 2, 1, 0.6]
    stat_img = image_of(grid, np.diag([3.0, 3, 3, 1]))
    table = get_clusters_table(stat_img, 0.5)
    assert table["Cluster ID"].tolist() == [1, "1a"]
    assert table["Peak Stat"].tolist() == [5, 4]
    assert table["X"].tolist() == [6, 24]
    # nilearn brings the dropped peak back when it looks at the second one.
    assert nilearn(stat_img, 0.5, pruning=None)["Peak Stat"].tolist() == [5, 4, 3]


def test_a_negative_threshold_lists_the_lower_tail() -> None:
    grid = np.zeros(SHAPE)
    grid[3:5, 3, 3], grid[9:12, 9, 9], grid[3, 10, 10] = -4.0, -6.0, 9.0
    grid[10, 9, 9] = -7.0
    table, maps = get_clusters_table(image_of(grid), -3.0, return_label_maps=True)
    assert table["Cluster ID"].tolist() == [1, 2]
    assert table["Peak Stat"].tolist() == [-7, -4]
    assert table["Cluster Size (mm3)"].tolist() == [108, 72]
    assert [np.asarray(found.dataobj)[10, 9, 9] for found in maps] == [1]
    # nilearn lists the weakest cluster first, with the wrong sign.
    assert nilearn(image_of(grid), -3.0)["Peak Stat"].tolist() == [4, 7]


def test_both_label_maps_are_there_where_a_sign_has_no_cluster() -> None:
    grid = np.zeros(SHAPE)
    grid[3:5, 3, 3] = -4.0
    with pytest.warns(UserWarning, match=r"No clusters found with stat higher than 3\.0"):
        table, maps = get_clusters_table(image_of(grid), 3.0, two_sided=True, return_label_maps=True)
    assert table["Cluster ID"].tolist() == [1]
    assert [int(np.asarray(found.dataobj).max()) for found in maps] == [0, 1]


def test_no_clusters() -> None:
    with pytest.warns(UserWarning, match="No clusters found") as caught:
        table = get_clusters_table(image_of(np.zeros(SHAPE)), 3.0, two_sided=True)
    assert len(caught) == 2
    assert "lower than -3.0" in str(caught[1].message)
    assert table.empty
    assert list(table.columns) == COLUMNS


@pytest.mark.filterwarnings("ignore:.* values that are not finite belong to no cluster")
@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_what_is_no_value_is_in_no_cluster(nothing: float) -> None:
    grid = smooth_map(7)
    holes = np.random.default_rng(0).random(SHAPE) < 0.2
    gappy, zeros = np.where(holes, nothing, grid), np.where(holes, 0, grid)
    how = (1.5, 4, True)
    pd.testing.assert_frame_equal(quiet(image_of(gappy), *how), quiet(image_of(zeros), *how))


def test_a_value_at_the_threshold_is_in_no_cluster() -> None:
    grid = np.zeros(SHAPE)
    grid[3:7, 3, 3] = [5.0, 4.0, 3.0, 3.0]
    # nilearn counts the voxels at the threshold for cluster_threshold, then leaves them out.
    assert nilearn(image_of(grid), 3.0, 4)["Cluster Size (mm3)"].tolist() == [72]
    assert quiet(image_of(grid), 3.0, 4).empty
    assert quiet(image_of(grid), 3.0, 2)["Cluster Size (mm3)"].tolist() == [72]


@pytest.mark.parametrize("height", [3.7, 5.0])
def test_a_flat_cluster_has_its_peak_in_its_middle(height: float) -> None:
    grid = np.zeros(SHAPE)
    grid[3:8, 4:7, 5:8] = height
    table = get_clusters_table(image_of(grid), 3.0)
    assert table[["X", "Y", "Z"]].values.tolist() == [[15, -5, 14]]
    assert_same(table, nilearn(image_of(grid), 3.0))


def test_a_saturated_map_equals_nilearn() -> None:
    place = np.indices(SHAPE) - np.array([8, 7, 6])[:, None, None, None]
    grid = np.minimum(8 * np.exp(-(place**2).sum(axis=0) / 12), 5.0)
    assert_same(get_clusters_table(image_of(grid), 2.0), nilearn(image_of(grid), 2.0))


def test_sizes_are_free_of_rounding_errors() -> None:
    grid = np.zeros(SHAPE)
    grid[:10, :10, :10] = 4.0
    for width, size in ((2.0, 8000), (2.4, 13824), (2.7, 19683), (0.7, 343)):
        table = get_clusters_table(image_of(grid, np.diag([-width, width, width, 1])), 3.0)
        assert table["Cluster Size (mm3)"][0] == size


def test_paths(tmp_path: Path) -> None:
    image_of(smooth_map(3)).to_filename(tmp_path / "z.nii.gz")
    expected = get_clusters_table(image_of(smooth_map(3)), 1.5)
    pd.testing.assert_frame_equal(get_clusters_table(tmp_path / "z.nii.gz", 1.5), expected)
    with pytest.raises(ImageError, match="one 3-D map"):
        get_clusters_table(image_of(np.zeros((4, 4, 4, 2))), 3.0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"stat_threshold": None}, "stat_threshold must be a number"),
        ({"stat_threshold": np.nan}, "stat_threshold must be a number"),
        ({"stat_threshold": -2.0, "two_sided": True}, "a two-sided threshold must not be negative"),
        ({"stat_threshold": 2.0, "cluster_threshold": -1}, "cluster_threshold must be a number from 0"),
        ({"stat_threshold": 2.0, "min_distance": 0}, "min_distance is above 0"),
        ({"stat_threshold": 2.0, "min_distance": -1}, "min_distance must be a number from 0"),
    ],
)
def test_wrong_parameters(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        get_clusters_table(image_of(np.zeros(SHAPE)), **how)
