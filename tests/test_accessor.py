"""dataset.glm: the images that analyses write, nilearn's pictures of them, and a viewer that stays offline."""

import re
import subprocess
import sys
from io import BytesIO

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from nilearn import plotting

import daskglm
from daskglm import VolumeSpace, images_dataset
from daskglm.errors import ContrastError, ImageError, ParameterError
from daskglm.models.functional import OUTPUT_TYPES
from daskglm.report.viewer import view

HOSTILE = "<script>alert(1)</script>"
KINDS = {"effect_size": "effect", "effect_variance": "variance", "z_score": "z", "p_value": "p"}


@pytest.fixture(autouse=True)
def headless():
    with matplotlib.rc_context():
        matplotlib.use("agg")
        yield
        matplotlib.pyplot.close("all")


@pytest.fixture
def images(cohort):
    space = VolumeSpace.from_image(nib.load(cohort.paths[0]), cohort.mask)
    return images_dataset(cohort.vectors, cohort.names, space)


@pytest.fixture
def maps(images, cohort):
    contrasts = {"age": "age", "both": ["age", "male"], HOSTILE: "male"}
    return daskglm.compute_contrasts(daskglm.fit_glm(images, cohort.design), contrasts)


def assert_written(image, path):
    written = nib.load(path)
    np.testing.assert_array_equal(image.get_fdata(), written.get_fdata())
    np.testing.assert_array_equal(image.affine, written.affine)
    assert image.header.binaryblock[:348] == written.header.binaryblock[:348]


def test_maps_are_those_written(gappy, tmp_path):
    out = tmp_path / "out"
    result = daskglm.group_analysis(
        gappy.paths, str(out), "~ age + sex", {"age": "age"}, f_contrasts={"both": "age, intercept"},
        participants=gappy.table_path,
    )  # fmt: skip
    for contrast, stat in (("age", "t"), ("both", "F")):
        for kind in OUTPUT_TYPES:
            image = result.maps.glm.to_nifti(kind, contrast=contrast)
            assert_written(image, out / f"contrast-{contrast}_stat-{KINDS.get(kind, stat)}_statmap.nii.gz")
    assert_written(result.fit.glm.to_nifti("n"), out / "n.nii.gz")


def test_permutation_maps_are_those_written(cohort, tmp_path):
    out = tmp_path / "out"
    result = daskglm.permutation_analysis(
        cohort.paths, str(out), "~ age", {"age": "age"}, participants=cohort.table_path, n_perm=20, random_state=0
    )
    for kind, name in (("stat", "t"), ("logp_max_stat", "tlogpmax"), ("logp_stat", "tlogp")):
        image = result.maps.glm.to_nifti(kind, contrast="age")
        assert_written(image, out / f"contrast-age_stat-{name}_statmap.nii.gz")
    assert "20, random" in repr(result.maps.glm)


def test_images_of_a_store(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, store, mask=cohort.mask_img)
    opened = daskglm.open_images(store)
    image = opened.glm.to_nifti("data", sample="sub-03")
    np.testing.assert_array_equal(image.get_fdata(), np.where(cohort.mask, cohort.data[2], 0))
    np.testing.assert_array_equal(image.affine, nib.load(cohort.paths[2]).affine)
    np.testing.assert_array_equal(
        opened.isel(sample=[4], voxel=slice(0, 7)).glm.to_nifti("data").get_fdata().ravel(order="F").nonzero()[0],
        np.flatnonzero(cohort.mask.ravel(order="F"))[:7],
    )


def test_what_was_selected_before(maps, cohort):
    whole = maps.glm.to_nifti("effect_size", contrast="both")
    assert whole.shape == (*cohort.mask.shape, 2)
    np.testing.assert_array_equal(maps.sel(contrast="both").glm.to_nifti("effect_size").get_fdata(), whole.get_fdata())
    one = maps.glm.to_nifti("effect_size", contrast="both", component=1)
    np.testing.assert_array_equal(one.get_fdata(), whole.get_fdata()[..., 1])


def test_a_coefficient(images, cohort):
    image = daskglm.fit_glm(images, cohort.design).glm.to_nifti("beta", regressor="male")
    expected = np.linalg.lstsq(cohort.design.to_numpy(), cohort.vectors, rcond=None)[0][1]
    np.testing.assert_allclose(image.get_fdata().T[cohort.mask.T], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("variable", "labels", "error", "says"),
    [
        ("z_scor", {}, ParameterError, "did you mean 'z_score'"),
        ("z_score", {"contrast": "agee"}, ContrastError, "did you mean 'age'"),
        ("z_score", {}, ContrastError, "add contrast='age', or another of age, both"),
        ("z_score", {"contrst": "age"}, ParameterError, "did you mean 'contrast'"),
        ("effect_size", {"contrast": "both", "component": 2}, ParameterError, "There is 0, 1"),
    ],
)
def test_unknown_names(maps, variable, labels, error, says):
    with pytest.raises(error, match=re.escape(says)):
        maps.glm.to_nifti(variable, **labels)


def test_without_space(maps):
    with pytest.raises(ImageError, match="attribute space"):
        maps.drop_attrs().glm.to_nifti("z_score", contrast="age")


def pixels(display):
    file = BytesIO()
    display.frame_axes.figure.savefig(file, dpi=50)
    file.seek(0)
    return matplotlib.pyplot.imread(file)


@pytest.mark.parametrize("plot_type", ["slice", "glass"])
def test_plot_is_that_of_nilearn(maps, plot_type):
    image = maps.glm.to_nifti("z_score", contrast="age")
    finite = nib.Nifti1Image(np.nan_to_num(image.get_fdata()).astype(np.float32), image.affine)
    if plot_type == "slice":
        expected = plotting.plot_stat_map(finite, threshold=1, title="z_score, contrast age")
    else:
        expected = plotting.plot_glass_brain(
            finite, threshold=1, title="z_score, contrast age", colorbar=True, plot_abs=False
        )
    drawn = maps.glm.plot("z_score", contrast="age", threshold=1, plot_type=plot_type)
    np.testing.assert_array_equal(pixels(drawn), pixels(expected))


def test_plot_takes_any_name(maps):
    assert pixels(maps.glm.plot("z_score", contrast=HOSTILE, bg_img=None)).size
    assert pixels(maps.glm.plot("z_score", contrast="age", title=r"$\frac$ and $5", plot_type="glass")).size
    with pytest.raises(ParameterError, match="plot_type"):
        maps.glm.plot("z_score", contrast="age", plot_type="surface")
    with pytest.raises(ImageError, match="3-D"):
        maps.glm.plot("effect_size", contrast="both")


def test_view_loads_nothing_and_takes_titles_as_text(maps):
    page = maps.glm.view("z_score", contrast=HOSTILE, threshold=0.5).html
    assert "alert(1)" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</title>" in page
    assert re.search(r'"title": "z_score, contrast \\u003cscript>alert\(1\)\\u003c/script>"', page)
    # What a page may load: no address but those within it.
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//[^"')]*""", page)
    assert "Content-Security-Policy" in page


@pytest.mark.filterwarnings("ignore:.*'partition' will ignore:UserWarning")
def test_view_shows_the_map_of_nilearn(maps):
    image = maps.glm.to_nifti("z_score", contrast="age")
    finite = nib.Nifti1Image(np.nan_to_num(image.get_fdata()).astype(np.float32), image.affine)
    expected = plotting.view_img(finite, threshold=1, bg_img="MNI152", title="x").html
    ours = view(image, 1, title="x")
    sprites = r'src="(data:image/png;base64,[^"]+)"'
    assert len(re.findall(sprites, ours.html)) >= 2
    assert re.findall(sprites, ours.html) == re.findall(sprites, expected)
    assert "<iframe" in ours._repr_html_()


def test_view_of_fine_images_is_small():
    data = np.random.default_rng(0).standard_normal((182, 218, 182)).astype(np.float32)
    image = nib.Nifti1Image(data, np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]]))
    assert len(view(image, 1, bg_img=None).html) < 5e6
    assert len(view(image, 1, bg_img=image).html) < 5e6


def test_facts(maps, images):
    text = repr(maps.glm)
    assert text.splitlines()[0] == "Maps"
    assert "90 of 7 x 8 x 5, 3 x 3 x 4 mm" in text
    assert f"age (t), both (F), {HOSTILE} (t)" in text
    # 12 x 90 values of 8 bytes.
    assert "8.64 kB, in memory" in repr(images.glm)
    chunked = images.chunk(sample=5, voxel=40)
    assert "3 x 3 chunks of up to 5 x 40" in repr(chunked.glm)
    html = maps.glm._repr_html_()
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (t)" in html


def run_python(code):
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_import_stays_light():
    run_python("import sys, daskglm; assert not {'xarray', 'numpy', 'nilearn', 'matplotlib'} & set(sys.modules)")


def test_known_with_the_first_public_name():
    run_python(
        "import sys, xarray, daskglm\n"
        "assert not hasattr(xarray.Dataset, 'glm')\n"
        "daskglm.open_images\n"
        "assert hasattr(xarray.Dataset, 'glm')\n"
        "assert not {'nilearn', 'matplotlib'} & set(sys.modules)"
    )
