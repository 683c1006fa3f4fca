"""Coverage and sheets of contrasts: what the legend counts and what each brain shows."""

import sys

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from cohorts import AFFINE, SHAPE
from matplotlib.colors import to_rgb

import daskglm
from daskglm.errors import MissingDependencyError, ParameterError
from daskglm.plotting import plot_contrasts, plot_coverage, plot_residuals_carpet


def steps(figure):
    """What the legend says, by its first words, and its colours."""
    legend = figure.legends[0]
    labels = [item.get_text() for item in legend.get_texts()]
    return dict(zip(labels, [patch.get_facecolor()[:3] for patch in legend.get_patches()], strict=True))


@pytest.fixture
def model(gappy):
    return daskglm.SecondLevelModel(mask_img=gappy.mask_img, min_coverage=0.5).fit(
        gappy.paths, design_matrix=gappy.design
    )


def counted(gappy):
    return np.isfinite(gappy.vectors).sum(axis=0)


def test_coverage_counts_voxels(model, gappy):
    n = counted(gappy)
    assert sorted(set(n)) == [8, 11, 12]
    found = steps(plot_coverage(model))
    total = sum(int(label.split("(")[1].split()[0]) for label in found)
    assert total == n.size
    assert f"12 ({(n == 12).sum()} voxels)" in found
    assert f"8 ({(n == 8).sum()} voxels)" in found
    assert not any("not tested" in label for label in found)


def test_voxels_below_the_minimum_are_set_apart(gappy):
    n = counted(gappy)
    model = daskglm.SecondLevelModel(mask_img=gappy.mask_img, min_coverage=0.9).fit(
        gappy.paths, design_matrix=gappy.design
    )
    for figure in (plot_coverage(model), plot_coverage(model.fits_[None], 11)):
        found = steps(figure)
        label = f"under 11, not tested ({(n == 8).sum()} voxels)"
        assert found[label] == to_rgb("#D55E00")
        assert "11 (1 voxel)" in found
        shown = {tuple(np.round(colour, 3)) for axes in figure.axes for colour in colours_shown(axes)}
        assert tuple(np.round(to_rgb("#D55E00"), 3)) in shown


def colours_shown(axes):
    """Colours of the pixels of the pictures in some axes."""
    for image in axes.images:
        pixels = image.to_rgba(image.get_array())
        yield from np.unique(pixels[pixels[..., 3] > 0][:, :3], axis=0)


def test_coverage_of_an_image(gappy, tmp_path):
    n = np.isfinite(gappy.data).sum(axis=0) * gappy.mask
    image = nib.Nifti1Image(n.astype(np.int32), AFFINE)
    image.to_filename(tmp_path / "n.nii.gz")
    found = steps(plot_coverage(str(tmp_path / "n.nii.gz"), display_mode="ortho"))
    assert list(found) == list(steps(plot_coverage(image)))
    assert f"12 ({(n == 12).sum()} voxels)" in found


def test_coverage_of_many_images_has_few_steps():
    n = nib.Nifti1Image(np.arange(1, 1 + np.prod(SHAPE)).reshape(SHAPE).astype(np.int32), AFFINE)
    found = steps(plot_coverage(n, 100))
    assert 3 < len(found) <= 7
    assert "under 100, not tested (99 voxels)" in found


def test_all_below_the_minimum():
    found = steps(plot_coverage(nib.Nifti1Image(np.full(SHAPE, 3, np.int32), AFFINE), 5))
    assert list(found) == [f"under 5, not tested ({np.prod(SHAPE)} voxels)"]


def test_what_has_no_n_is_refused(model):
    with pytest.raises(ParameterError, match="variable n"):
        plot_coverage(model.fits_[None].drop_vars("n"))
    with pytest.raises(ParameterError, match="above zero"):
        plot_coverage(nib.Nifti1Image(np.zeros(SHAPE), AFFINE))


def test_a_sheet_has_every_contrast(model, gappy, tmp_path):
    maps = model.compute_contrasts({"age": "age", "costs $1$ or $2$": "male"})
    nothing = nib.Nifti1Image(np.zeros(SHAPE), AFFINE)
    figure = plot_contrasts({**maps, "nothing": nothing}, 2.0)
    written = [item.get_text() for item in figure.texts]
    for name, image in maps.items():
        above = int((np.abs(image.get_fdata()) > 2).sum())
        expected = f"{above} voxels" if above else "none beyond the threshold"
        assert name.replace("$", r"\$") + "\n" + expected in written
    assert "nothing\nnone beyond the threshold" in written
    scale = figure.axes[-1]
    largest = max(np.nanmax(np.abs(image.get_fdata())) for image in maps.values())
    assert scale.get_xlim() == pytest.approx((-largest, largest))
    plot_contrasts(maps, 2.0, columns=1, output_file=tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.parametrize("threshold", [0.01, 1.0, 3.9])
def test_numbers_of_the_scale_do_not_overlap(model, threshold):
    figure = plot_contrasts({"age": model.compute_contrast("age")}, threshold, vmax=4.0)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[-1].get_xticklabels()]
    assert len(boxes) >= 3
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_titles_do_not_overlap(model):
    z = model.compute_contrast("age")
    figure = plot_contrasts({f"a rather long name of a contrast, number {k}": z for k in range(6)}, columns=3)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_sheets_of_nothing_are_refused(model):
    with pytest.raises(ParameterError, match="at least one map"):
        plot_contrasts({})
    with pytest.raises(ParameterError, match="threshold"):
        plot_contrasts({"age": model.compute_contrast("age")}, -1)


def test_without_nilearn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    for function, arguments in ((plot_contrasts, ({},)), (plot_coverage, (None,)), (plot_residuals_carpet, (None,))):
        with pytest.raises(MissingDependencyError, match=r'pip install "daskglm\[report\]"'):
            function(*arguments)
    assert plt.get_fignums() == []
