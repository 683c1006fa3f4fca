"""Reading is verified: damaged files are errors, never wrong voxels."""

import gzip
import struct
import tracemalloc
import zlib
from contextlib import nullcontext
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskglm.errors import CorruptImageError
from daskglm.io import nifti
from daskglm.io.formats import check_size
from daskglm.io.nifti import read_header, read_mask, read_values, stream_volumes

RNG = np.random.default_rng(0)
GRID = RNG.standard_normal((9, 8, 7)).astype(np.float32)


@pytest.fixture(params=["isal", "zlib"])
def backend(request, monkeypatch):
    """Both decompressors, where both are installed."""
    module = pytest.importorskip("isal.isal_zlib") if request.param == "isal" else zlib
    monkeypatch.setattr(nifti, "_zlib", module)
    return request.param


def write(tmp_path, grid=GRID, name="image.nii.gz", **header):
    image = nib.Nifti1Image(grid, np.diag([2.0, 2, 3, 1]), dtype=grid.dtype)
    for key, value in header.items():
        image.header[key] = value
    path = tmp_path / name
    image.to_filename(path)
    return str(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_equals_nibabel(tmp_path, backend, name, dtype):
    path = write(tmp_path, (np.abs(GRID) * 50).astype(dtype), name)
    header, values = read_values(path)
    expected = nib.load(path)
    assert np.array_equal(values[0].reshape(header.shape, order="F"), np.asanyarray(expected.dataobj))
    assert np.allclose(header.affine, expected.affine)
    assert values.dtype == (np.float32 if dtype in ("u1", "i1", "u2", "i2", "f4") else np.float64)  # exact in each


def test_uncompressed_images_are_mapped_and_not_copied(tmp_path):
    """So that a file as large as the memory can be looked at."""
    path = write(tmp_path, np.tile(GRID[..., None], 400), "a.nii")
    tracemalloc.start()
    try:
        _, values = read_values(path)
        assert tracemalloc.get_traced_memory()[1] < 0.25 * values.nbytes
    finally:
        tracemalloc.stop()
    assert np.array_equal(values[7].reshape(GRID.shape, order="F"), GRID)


@pytest.mark.parametrize(("n_values", "possible"), [(680, True), (681, False)])
def test_gzip_makes_at_most_1032_bytes_of_one(tmp_path, n_values, possible):
    """The limit of deflate; a header that promises more is damaged. It has 352 bytes."""
    header = read_header(write(tmp_path, np.zeros((n_values, 1, 1), np.uint8), "a.nii"))
    assert header.n_bytes == 352 + n_values
    with nullcontext() if possible else pytest.raises(CorruptImageError, match="promises 1,033 bytes"):
        check_size(header, 1, True)
    with pytest.raises(CorruptImageError, match=r"but the file has 1$"):
        check_size(header, 1, False)


@pytest.mark.parametrize("order", ["<", ">"])
def test_scaled_and_big_endian(tmp_path, order):
    image = nib.Nifti1Image((GRID * 100).astype(np.int16), np.eye(4)).as_reoriented([[0, 1], [1, 1], [2, 1]])
    header = image.header.as_byteswapped(order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    scaled = nib.Nifti1Image(GRID.astype(np.float64), np.eye(4), header)
    path = str(tmp_path / "scaled.nii.gz")
    scaled.to_filename(path)
    _, values = read_values(path)
    expected = np.asanyarray(nib.load(path).dataobj)
    assert values.dtype == np.float64
    assert np.allclose(values[0].reshape(GRID.shape, order="F"), expected, rtol=1e-15)


@given(first=st.integers(0, 5), count=st.integers(1, 6))
def test_some_volumes(tmp_path_factory, first, count):
    folder = tmp_path_factory.mktemp("four")
    grid = RNG.standard_normal((4, 3, 2, 6))
    for name in ("a.nii.gz", "a.nii"):
        _, values = read_values(write(folder, grid, name), slice(first, first + count))
        assert np.array_equal(values, grid[..., first : first + count].reshape(-1, values.shape[0], order="F").T)


def test_every_flipped_bit_is_noticed(tmp_path, backend):
    path = write(tmp_path)
    good, whole = gzip.decompress(Path(path).read_bytes()), Path(path).read_bytes()
    rng = np.random.default_rng(1)
    noticed = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(0, len(whole))] ^= 1 << rng.integers(8)
        bad = tmp_path / "bad.nii.gz"
        bad.write_bytes(damaged)
        try:
            _, values = read_values(str(bad))
        except CorruptImageError:
            noticed += 1
        else:  # a bit that decodes to the same bytes: the file's time stamp, say
            assert values.tobytes() == good[352:]
    assert noticed > 120


FAULTS = {
    "empty": lambda whole: b"",
    "truncated": lambda whole: whole[: len(whole) // 2],
    "without its trailer": lambda whole: whole[:-8],
    "zero-filled tail": lambda whole: whole[:-200] + bytes(200),
    "trailing garbage": lambda whole: whole + b"garbage",
    "shorter than the header says": lambda whole: gzip.compress(gzip.decompress(whole)[:-4]),
    "longer than the header says": lambda whole: gzip.compress(gzip.decompress(whole) + b"1234"),
    "no NIfTI": lambda whole: gzip.compress(b"hello" * 100),
    "header only": lambda whole: gzip.compress(gzip.decompress(whole)[:200]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files(tmp_path, backend, fault):
    path = write(tmp_path)
    damaged = FAULTS[fault](Path(path).read_bytes())
    Path(path).write_bytes(damaged)
    with pytest.raises(CorruptImageError, match=r"image\.nii\.gz"):
        read_values(path)


def test_members_one_after_the_other(tmp_path, backend):
    """Files written by pigz or bgzip have several members; zero padding behind the last is allowed."""
    path = write(tmp_path)
    plain = gzip.decompress(Path(path).read_bytes())
    Path(path).write_bytes(gzip.compress(plain[:700]) + gzip.compress(plain[700:]) + bytes(16))
    _, values = read_values(path)
    assert values.tobytes() == plain[352:]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_promises_too_much_allocates_nothing(tmp_path, name):
    """30,000^3 doubles in a file of a few kB: refused by arithmetic, before any memory is asked for."""
    path = write(tmp_path, name=name)
    raw = Path(path).read_bytes()
    plain = bytearray(gzip.decompress(raw) if name.endswith("gz") else raw)
    plain[40:56] = struct.pack("<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    Path(path).write_bytes(gzip.compress(bytes(plain)) if name.endswith("gz") else bytes(plain))
    with pytest.raises(CorruptImageError, match="promises"):
        read_values(path)
    with pytest.raises(CorruptImageError, match="promises"):
        read_header(path)


def test_missing_and_short_files(tmp_path):
    with pytest.raises(CorruptImageError, match=r"nowhere\.nii: no such file"):
        read_header(str(tmp_path / "nowhere.nii"))
    path = write(tmp_path, name="short.nii")
    Path(path).write_bytes(Path(path).read_bytes()[:1000])
    with pytest.raises(CorruptImageError, match="promises"):
        read_values(path)


def test_mask(tmp_path):
    grid = np.where(GRID < 0, 0, 3).astype(np.float32)
    grid[0, 0, 0] = np.nan
    _, mask = read_mask(write(tmp_path, grid))
    assert np.array_equal(mask, np.nan_to_num(grid) != 0)
    with pytest.raises(CorruptImageError, match="3-D"):
        read_mask(write(tmp_path, np.ones((3, 3, 3, 2), np.float32), "four.nii.gz"))


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_volumes_one_after_the_other(tmp_path, end, dtype):
    values = np.random.default_rng(0).integers(-99, 99, (3, 4, 2, 7)).astype(dtype)
    path = str(tmp_path / f"run{end}")
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    found = np.stack(list(stream_volumes(path)))
    np.testing.assert_array_equal(found, values.reshape(-1, 7, order="F").T)
    np.testing.assert_array_equal(np.stack(list(stream_volumes(path, 2, 5))), found[2:5])


def test_a_stream_that_ends_in_the_middle_is_named(tmp_path):
    path = tmp_path / "run.nii.gz"
    values = np.random.default_rng(0).standard_normal((8, 8, 8, 20))
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptImageError, match=r"run\.nii\.gz"):
            list(stream_volumes(str(path)))


READERS = {
    "values": read_values,
    "some volumes": lambda path: read_values(path, slice(0, 1)),
    "volumes in order": lambda path: list(stream_volumes(path)),
    "the first volumes in order": lambda path: list(stream_volumes(path, 0, 1)),
}
# What nibabel reads without a word: bytes that were lost, or that no header speaks of.
AMOUNTS = {
    "one byte less": lambda plain: plain[:-1],
    "a volume less": lambda plain: plain[:-96],
    "one byte more": lambda plain: plain + b"\0",
    "a volume more": lambda plain: plain + plain[-96:],
    "another image": lambda plain: plain + plain,
}


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("end", [".nii", ".nii.gz", "members.nii.gz"])
def test_a_file_has_the_bytes_that_its_header_promises(tmp_path, reader, amount, end):
    path = Path(write(tmp_path, RNG.standard_normal((4, 3, 2, 5)).astype(np.float32), "image.nii"))
    plain = path.read_bytes()
    path = path.with_name(f"run{end}")
    damaged = AMOUNTS[amount](plain)
    members = [damaged] if end != "members.nii.gz" else [damaged[: len(plain)], damaged[len(plain) :]]
    path.write_bytes(damaged if end == ".nii" else b"".join(map(gzip.compress, members)))
    with pytest.raises(CorruptImageError, match=r"promises|ends in volume"):
        READERS[reader](str(path))
    if end == ".nii":
        with pytest.raises(CorruptImageError, match="promises"):
            read_header(str(path))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "behind", [b"garbage", b"\0\0x", b"\x1f\x8b", bytes(3) + gzip.compress(b"x"), bytes(2**22) + b"x"], ids=range(5)
)
def test_what_follows_a_compressed_image_is_noticed(tmp_path, reader, behind):
    path = Path(write(tmp_path, RNG.standard_normal((4, 3, 2, 5)).astype(np.float32)))
    path.write_bytes(path.read_bytes() + behind)
    with pytest.raises(CorruptImageError, match=r"image\.nii\.gz"):
        READERS[reader](str(path))
