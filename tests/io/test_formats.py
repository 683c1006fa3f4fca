"""Whatever nibabel reads is read: each format's values and affine are nibabel's, and damage is noticed."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import AFFINE
from nilearn.glm.second_level import SecondLevelModel as NilearnModel

import daskglm
from daskglm.errors import CorruptImageError, DesignError, ImageError
from daskglm.io import files
from daskglm.io.nifti import checksum, read_header, read_mask, read_values, stream_volumes
from daskglm.io.tables import read_table
from daskglm.models.group import group_analysis
from daskglm.models.inputs import expand

RNG = np.random.default_rng(0)
GRID = RNG.standard_normal((6, 5, 4, 3)).astype(np.float32)
KINDS = {
    "a.nii": nib.Nifti1Image, "a.nii.gz": nib.Nifti1Image, "b.nii": nib.Nifti2Image, "b.nii.gz": nib.Nifti2Image,
    "c.img": nib.Nifti1Pair, "c.hdr": nib.Nifti1Pair, "c.img.gz": nib.Nifti1Pair, "d.img": nib.Nifti2Pair,
    "e.img": nib.Spm2AnalyzeImage, "f.img": nib.Spm99AnalyzeImage, "g.img": nib.AnalyzeImage, "h.mgh": nib.MGHImage,
    "h.mgz": nib.MGHImage, "i.nii.bz2": nib.Nifti1Image,
}  # fmt: skip


@pytest.fixture(params=KINDS)
def path(request, tmp_path):
    """A 4-D image in each format."""
    image = KINDS[request.param](GRID, AFFINE if "g" not in request.param[:1] else np.diag([3.0, 3, 4, 1]))
    image.to_filename(tmp_path / request.param)
    return str(tmp_path / request.param)


def test_values_are_those_of_nibabel(path):
    image = nib.load(path)
    header, values = read_values(path)
    assert header.shape == image.shape
    np.testing.assert_allclose(header.affine, image.affine)
    expected = np.asanyarray(image.dataobj).reshape(-1, 3, order="F").T
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(read_values(path, slice(1, 2))[1], expected[1:2])
    np.testing.assert_array_equal(list(stream_volumes(path)), expected)
    np.testing.assert_array_equal(list(stream_volumes(path, 1, 3)), expected[1:])
    assert read_header(path).raw == header.raw
    made = nib.Nifti1Header(header.raw, check=False)
    np.testing.assert_allclose(made.get_zooms()[:3], image.header.get_zooms()[:3], rtol=1e-6)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_byte_orders_and_scaling(tmp_path, kind, order, dtype):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    path = str(tmp_path / "a.nii")
    kind(100 * GRID.astype(np.float64), AFFINE, header).to_filename(path)
    np.testing.assert_array_equal(
        read_values(path)[1], np.asanyarray(nib.load(path).dataobj).reshape(-1, 3, order="F").T
    )


@pytest.mark.parametrize("name", ["b.nii.gz", "c.img.gz", "h.mgz", "i.nii.bz2"])
def test_flipped_bits_are_noticed(tmp_path, name):
    """Verified where it is compressed: any flipped bit of the values is an error that names the file."""
    path = tmp_path / name
    KINDS[name](GRID, AFFINE).to_filename(path)
    whole, (_, before) = path.read_bytes(), read_values(str(path))
    for place in range(60, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            _, values = read_values(str(path))
        except CorruptImageError as error:
            assert name in str(error)  # noqa: PT017
        else:
            np.testing.assert_array_equal(values, before)  # a bit that says nothing, as the time of a gzip header
    for size in (len(whole) - 9, len(whole) // 2, 100, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptImageError, match=name):
            read_values(str(path))


@pytest.mark.parametrize("name", ["b.nii", "c.img", "d.img", "g.img", "h.mgh"])
def test_short_files_are_noticed(tmp_path, name):
    path = tmp_path / name
    KINDS[name](GRID, np.diag([3.0, 3, 4, 1])).to_filename(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(CorruptImageError, match="its header promises"):
        read_header(str(path))


def test_the_tags_of_mgh_are_no_damage(tmp_path):
    """FreeSurfer writes times and tags after the values; in a gzip they are read, for its checksum."""
    for name in ("a.mgh", "a.mgz"):
        path = tmp_path / name
        nib.MGHImage(GRID, AFFINE).to_filename(path)
        opened = gzip.open if name.endswith("z") else open
        with opened(path, "ab") as file:
            file.write(b"tags and a history" * 100)
        np.testing.assert_array_equal(read_values(str(path))[1], GRID.reshape(-1, 3, order="F").T)


def test_what_is_no_volume_is_named(tmp_path):
    for name, content in {"a.img": b"x" * 500, "a.mgh": b"\0\0\0\1" + b"\xff" * 400, "b.nii": b"x" * 900}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorruptImageError, match=name):
            read_header(str(tmp_path / name))
    with pytest.raises(CorruptImageError, match=r"absent.img: no such file"):
        read_header(str(tmp_path / "absent.img"))
    nib.Nifti1Pair(GRID, AFFINE).to_filename(tmp_path / "c.img")
    (tmp_path / "c.img").unlink()
    with pytest.raises(CorruptImageError, match=r"cannot read .*c\.hdr"):
        read_header(str(tmp_path / "c.hdr"))


def test_a_pair_is_one_image(tmp_path):
    """Its state, its checksum and its name are of both files; a pattern that finds both finds one."""
    for name in ("sub-01_con", "sub-02_con"):
        nib.Nifti1Pair(GRID[..., 0], AFFINE).to_filename(tmp_path / f"{name}.img")
    first = str(tmp_path / "sub-01_con.img")
    assert expand(str(tmp_path / "*con*")) == expand(str(tmp_path)) == [first, str(tmp_path / "sub-02_con.img")]
    assert expand(str(tmp_path / "sub-01_con.hdr")) == [first]
    before = files.state(first), checksum(first)
    assert before == (files.state(first.replace(".img", ".hdr")), checksum(first.replace(".img", ".hdr")))
    header = tmp_path / "sub-01_con.hdr"
    header.write_bytes(header.read_bytes()[:100] + b"\1" + header.read_bytes()[101:])
    assert (files.state(first)[1] == before[0][1], checksum(first) == before[1]) == (False, False)
    with pytest.raises(ImageError, match="the same image is given twice"):
        daskglm.convert([first, str(header)], str(tmp_path / "all.zarr"), mask=False)


@pytest.mark.parametrize("name", ["c.img", "c.hdr", "b.nii.gz", "h.mgz"])
@pytest.mark.parametrize("form", ["paths", "images", "store"])
def test_second_level_of_each_format(cohort, tmp_path, name, form):
    """The t map of nilearn from the same images as NIfTI-1, from paths, loaded images and a store."""
    kind, end = KINDS[name], name[1:]
    paths = [str(tmp_path / f"{subject}{end}") for subject in cohort.names]
    for path, data in zip(paths, cohort.data, strict=True):
        kind(data.astype(np.float32), AFFINE).to_filename(path)
    mask = str(tmp_path / f"mask{end}")
    kind(cohort.mask.astype(np.uint8), AFFINE).to_filename(mask)
    np.testing.assert_array_equal(read_mask(mask)[1], cohort.mask)
    given = [nib.load(path) for path in paths] if form == "images" else paths
    if form == "store":
        done = daskglm.convert(paths, str(tmp_path / "all.zarr"), mask=mask, on_error="quarantine")
        assert done.quarantined == {}
        given = done.store
    ours = daskglm.SecondLevelModel(mask_img=nib.load(mask) if form == "images" else mask)
    ours = ours.fit(given, design_matrix=cohort.design).compute_contrast("age", output_type="stat")
    plain = [nib.Nifti1Image(data.astype(np.float32), AFFINE) for data in cohort.data]
    theirs = NilearnModel(mask_img=cohort.mask_img).fit(plain, design_matrix=cohort.design)
    expected = theirs.compute_contrast("age", output_type="stat").get_fdata()[cohort.mask]
    np.testing.assert_allclose(ours.get_fdata()[cohort.mask], expected, rtol=1e-8)
    np.testing.assert_allclose(ours.affine, AFFINE)


@pytest.mark.parametrize("end", [".img", ".mgz"])
def test_group_of_a_folder(cohort, tmp_path, end):
    """A folder as images, of pairs; the table's rows find them by subject."""
    folder = tmp_path / "maps-of-all"
    folder.mkdir()
    for name, data in zip(cohort.names, cohort.data, strict=True):
        (nib.Nifti1Pair if end == ".img" else nib.MGHImage)(data.astype("f4"), AFFINE).to_filename(
            folder / f"{name}{end}"
        )
    cohort.table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    result = group_analysis(
        str(folder), str(tmp_path / "out"), "~ age", {"age": "age"}, participants=cohort.table, mask=cohort.mask_img
    )
    expected = group_analysis(
        cohort.paths, str(tmp_path / "same"), "~ age", {"age": "age"}, participants=cohort.table, mask=cohort.mask_img
    )
    t, same = (item.maps["stat"].values for item in (result, expected))
    np.testing.assert_allclose(t, same, atol=1e-4)
    assert isinstance(result.design, pd.DataFrame)


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.MGHImage, nib.Nifti1Pair])
def test_first_level_of_each_format(tmp_path, kind):
    """Runs as paths and as loaded images: the same maps as of a NIfTI-1 file."""
    rng, end = np.random.default_rng(1), {nib.MGHImage: ".mgz", nib.Nifti1Pair: ".img"}.get(kind, ".nii.gz")
    data = (100 + rng.standard_normal((4, 4, 3, 40))).astype(np.float32)
    events = pd.DataFrame({"onset": np.arange(4, 70, 10.0), "duration": 3.0, "trial_type": "a"})
    mask, maps = nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), AFFINE), []
    nib.Nifti1Image(data, AFFINE).to_filename(tmp_path / "plain.nii.gz")
    kind(data, AFFINE).to_filename(tmp_path / f"run{end}")
    run = str(tmp_path / f"run{end}")
    for given in (str(tmp_path / "plain.nii.gz"), run, nib.load(run), kind(data, AFFINE)):
        model = daskglm.FirstLevelModel(t_r=2.0, mask_img=mask, slice_time_ref=0.5).fit(given, events)
        maps.append(model.compute_contrast("a").get_fdata())
    for found in maps[1:]:
        np.testing.assert_allclose(found, maps[0], rtol=1e-10)


def test_folders_and_absent_content(cohort, tmp_path):
    """A folder among the images, and links and pointers of DataLad and Git LFS whose content is not here."""
    (tmp_path / "sub-90.nii.gz").mkdir()
    (tmp_path / "sub-91.nii.gz").symlink_to(".git/annex/objects/xX/yY/MD5E-s1--a.nii.gz")
    (tmp_path / "sub-92.nii.gz").write_text("/annex/objects/MD5E-s1--a.nii.gz\n")
    (tmp_path / "sub-93.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    told = {"90": r"it is a folder; name the images in it, as in '.*sub-90.nii.gz/\*.nii.gz'",
            "91": r"link to .git/annex.*not on this machine; get it: datalad get .*sub-91.nii.gz",
            "92": r"pointer to content .*; get it: datalad get", "93": r"Git LFS .*; get it: git lfs pull"}  # fmt: skip
    for number, text in told.items():
        with pytest.raises(CorruptImageError, match=text):
            read_header(str(tmp_path / f"sub-{number}.nii.gz"))
    (tmp_path / "empty").mkdir()
    Path(tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"no image is directly in the folder .*holds notes.txt; give a pattern"):
        expand(str(tmp_path / "empty"))


@pytest.mark.parametrize("command", ["group", "convert"])
def test_all_files_with_bad_headers_are_named(cohort, tmp_path, command):
    """Once, not one a try: the first with what to do, the others with what is wrong."""
    for number, content in ((0, b""), (3, b"x" * 900), (7, None)):
        path = Path(cohort.paths[number])
        path.unlink() if content is None else path.write_bytes(content)
    read = {
        "group": lambda: group_analysis(cohort.paths, str(tmp_path / "out"), "~ 1", {"mean": "intercept"}),
        "convert": lambda: daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=cohort.mask_img),
    }
    told = (
        r"sub-01_\S+: the file is empty; .*2 more cannot be used: .*sub-04_\S+: it is not a .*sub-08_\S+: no such file"
    )
    with pytest.raises(ImageError, match=told):
        read[command]()


def test_tables_that_are_not_here(cohort, tmp_path):
    (tmp_path / "folder.tsv").mkdir()
    (tmp_path / "link.tsv").symlink_to(".git/annex/objects/xX/MD5E-s1--a.tsv")
    (tmp_path / "pointer.tsv").write_text("/annex/objects/MD5E-s1--a.tsv\n")
    told = {"folder": "it is a folder; name the file", "link": r"not on this machine; get it: datalad get .*link.tsv",
            "pointer": "get it: datalad get", "absent": "there is no such file; correct the path"}  # fmt: skip
    for name, text in told.items():
        with pytest.raises(DesignError, match=text):
            read_table(str(tmp_path / f"{name}.tsv"))


def test_masks_of_one_volume_in_four_dimensions(cohort, tmp_path):
    """From a file and in memory, of a model and of a threshold."""
    mask = nib.Nifti1Image(cohort.mask[..., None].astype(np.uint8), AFFINE)
    mask.to_filename(tmp_path / "mask.nii.gz")
    for given in (mask, str(tmp_path / "mask.nii.gz")):
        model = daskglm.SecondLevelModel(mask_img=given).fit(cohort.paths, design_matrix=cohort.design)
        z = model.compute_contrast("age")
        np.testing.assert_array_equal(z.get_fdata() != 0, cohort.mask)
        daskglm.threshold_stats_img(z, mask_img=given, alpha=0.05, height_control="fdr")
