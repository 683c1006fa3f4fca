"""Histograms of z, nulls and leverage: what is drawn is what scipy, NumPy and the test itself say."""

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from cohorts import AFFINE
from scipy import stats

import daskglm
from daskglm.errors import ContrastError, ImageError, ParameterError
from daskglm.models.inputs import load_images
from daskglm.models.options import Options
from daskglm.plotting import plot_leverage, plot_null, plot_z_histogram


def texts(axes):
    return " ".join(item.get_text() for item in axes.get_legend().get_texts())


def at(axes, start):
    """The place of the vertical line whose label starts so."""
    return next(line.get_xdata()[0] for line in axes.lines if start in str(line.get_label()))


def test_histogram_is_numpys_and_the_curve_scipys():
    z = np.random.default_rng(0).standard_normal(5000) * 1.3
    axes = plot_z_histogram(np.append(z, [np.nan, np.inf]))
    heights, edges, _ = axes.patches[0].get_data()
    expected, _ = np.histogram(z, edges, density=True)
    np.testing.assert_allclose(heights, expected)
    assert edges[0] <= z.min()
    assert edges[-1] >= z.max()
    curve = next(line for line in axes.lines if "normal" in line.get_label())
    np.testing.assert_allclose(curve.get_ydata(), stats.norm.pdf(curve.get_xdata()))
    assert "5,000 voxels" in texts(axes)


def test_the_shares_beyond_are_told():
    z = np.concatenate([np.full(3, -4.0), np.full(12, 4.0), np.linspace(-1, 1, 85)])
    axes = plot_z_histogram(z, threshold=3)
    assert "3: 3%\nabove 3: 12%\n(normal: 0.135% each)" in texts(axes)
    dashed = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "--"]
    assert sorted({x[0] for x in dashed if len(x)}) == [-3, 3]


def test_an_image_is_counted_in_its_mask(tmp_path):
    values = np.zeros((4, 4, 4))
    values[1:3, 1:3] = np.random.default_rng(1).standard_normal((2, 2, 4))
    image = nib.Nifti1Image(values, AFFINE)
    image.to_filename(tmp_path / "z.nii.gz")
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1, 1] = mask[0, 0] = 1
    assert "16 voxels" in texts(plot_z_histogram(image))
    assert "16 voxels" in texts(plot_z_histogram(str(tmp_path / "z.nii.gz")))
    assert "8 voxels" in texts(plot_z_histogram(image, nib.Nifti1Image(mask, AFFINE)))


def test_no_z_is_refused():
    with pytest.raises(ImageError, match="finite"):
        plot_z_histogram(np.full(3, np.nan))
    with pytest.raises(ParameterError, match="threshold"):
        plot_z_histogram(np.ones(3), threshold=0)
    with pytest.raises(ParameterError, match="array"):
        plot_z_histogram(np.ones(3), np.ones(3))


@pytest.fixture
def permuted(gappy):
    """Tests of one- and two-sided contrasts, with clusters."""

    def test(two_sided, contrasts=None, paths=gappy.paths):
        images = load_images(paths, Options(gappy.mask_img)).images
        return daskglm.permutation_test(
            images, gappy.design, contrasts or {"age": "age"}, n_perm=99, two_sided=two_sided, threshold=0.05
        )

    return test


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("sign", ["", "-"])
def test_null_holds_all_rearrangements_and_the_observed_maximum(permuted, two_sided, sign):
    maps = permuted(two_sided, {"age": f"{sign}age"})
    axes = plot_null(maps)
    null = maps["h0_max_stat"].values[0]
    assert sum(patch.get_height() for patch in axes.patches) == null.size
    scaled = maps["scaled_stat"].values[0]
    largest = np.nanmax(np.abs(scaled)) if two_sided else np.nanmax(scaled)
    assert at(axes, "largest of the data") == pytest.approx(largest)
    p = 10 ** -np.nanmax(maps["logp_max_stat"].values)
    assert f"p = {p:.3g}" in texts(axes)
    limit = at(axes, "a corrected p of 5%")
    counted = [(1 + np.sum(side)) / (1 + null.size) for side in (null > limit, null >= limit)]
    assert counted[0] <= 0.05 < counted[1]
    assert "even over voxels" in axes.get_xlabel()


@pytest.mark.parametrize("sign", ["", "-"])
def test_null_agrees_with_the_table_of_thresholds(gappy, tmp_path, sign):
    result = daskglm.permutation_analysis(
        gappy.paths, str(tmp_path / "out"), "~ age", {"age": f"{sign}age"}, participants=gappy.table,
        mask=gappy.mask_img, n_perm=49, two_sided=False,
    )  # fmt: skip
    axes = plot_null(result.maps)
    assert at(axes, "largest of the data") == result.thresholds["observed_maximum"][0]
    assert at(axes, "a corrected p of 5%") == result.thresholds["threshold"][0]
    assert at(axes, "largest of the data") == np.nanmax(result.maps["scaled_stat"].values)


def test_null_of_cluster_sizes_is_in_voxels(permuted):
    maps = permuted(True)
    axes = plot_null(maps, statistic="size", alpha=0.1)
    assert "voxels" in axes.get_xlabel()
    null, limit = maps["h0_max_size"].values.ravel(), at(axes, "a corrected p of 10%")
    assert (1 + np.sum(null > limit)) / (1 + null.size) <= 0.1 < (1 + np.sum(null >= limit)) / (1 + null.size)
    assert at(axes, "largest of the data") == np.nanmax(maps["size"].values)


def test_null_of_an_array_and_its_observed_value():
    null = np.arange(1.0, 101)
    axes = plot_null(null, 95.5)
    assert "p = 0.0594" in texts(axes)  # (1 + 5) / (1 + 100)
    assert at(axes, "a corrected p of 5%") == 96.0
    axes = plot_null(null)
    assert "largest of the data" not in texts(axes)


def test_null_refuses_what_is_not_there(permuted):
    maps = permuted(True, {"age": "age", "male": "male"})
    with pytest.raises(ContrastError, match="age, male"):
        plot_null(maps)
    with pytest.raises(ParameterError, match="tfce"):
        plot_null(maps, contrast="age", statistic="tfce")
    with pytest.raises(ParameterError, match="finite"):
        plot_null(np.array([np.nan]))


def test_leverage_marks_rows_above_twice_the_mean(cohort):
    design = cohort.design.assign(outlier=[8.0, *np.linspace(-0.1, 0.1, 11)])
    design.index = ["sub-$x$<b>", *cohort.names[1:]]
    axes = plot_leverage(design)
    hat = np.diag(design.to_numpy() @ np.linalg.pinv(design.to_numpy()))
    high = next(line for line in axes.lines if "above" in line.get_label())
    np.testing.assert_allclose(high.get_ydata(), hat[hat > 2 * 4 / 12])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), hat[hat <= 2 * 4 / 12])
    assert r"sub-\$x\$<b>" in texts(axes)
    assert "2p/n = 0.667" in texts(axes)


def test_a_file_is_written_and_the_figure_closed(tmp_path, cohort):
    for name, start in (("a.png", b"\x89PNG"), ("b.svg", b"<?xml"), ("c.pdf", b"%PDF")):
        plot_leverage(cohort.design, output_file=tmp_path / "new" / name)
        assert (tmp_path / "new" / name).read_bytes().startswith(start)
    assert plt.get_fignums() == []


def test_given_axes_are_drawn_on():
    _, axes = plt.subplots()
    assert plot_null(np.arange(10.0), axes=axes, title="mine") is axes
    assert axes.get_title() == "mine"
    assert len(plt.get_fignums()) == 1
