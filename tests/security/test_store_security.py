"""Files and stores from anywhere: nothing in them is run, and nothing they promise is believed before it is checked."""

import gzip
import json
import os
import pickle
import shutil
import tracemalloc
import warnings
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr

import daskglm
from daskglm import SecondLevelModel
from daskglm.errors import CorruptImageError, DaskGLMError, DesignError, StoreError
from daskglm.io import cache
from daskglm.io.nifti import read_header, read_mask, read_values, stream_volumes
from daskglm.io.permutations import load_units, save_unit
from daskglm.io.store_metadata import _fault
from daskglm.models.group import group_analysis
from daskglm.models.permutation_analysis import permutation_analysis


class Exploit:
    """What, when it is unpickled, makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """What must not be there at the end; the exploit is shown to work first."""
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Exploit(path)))  # noqa: S301
    path.rmdir()
    yield path
    assert not path.exists()


def exploit_array(marker):
    return np.array([Exploit(marker)] * 4, dtype=object)


def exploits(marker):
    """File name -> bytes that would run something if they were unpickled."""
    import io

    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, exploit_array(marker), allow_pickle=True)
    np.savez(npz, arr_0=exploit_array(marker))
    raw = pickle.dumps(Exploit(marker))
    return {"npy": npy.getvalue(), "npz": npz.getvalue(), "pkl": raw, "pkl.gz": gzip.compress(raw * 20)}


@pytest.mark.parametrize("kind", ["npy", "npz", "pkl", "pkl.gz"])
@pytest.mark.parametrize("name", ["sub-05.nii.gz", "sub-05.nii", "sub-05.npz"])
def test_pickle_as_image_mask_or_table(cohort, tmp_path, marker, kind, name):
    path = tmp_path / name
    path.write_bytes(exploits(marker)[kind])
    with pytest.raises(CorruptImageError, match="sub-05"):
        daskglm.convert([*cohort.paths[:4], str(path)], str(tmp_path / "all.zarr"))
    with pytest.raises(CorruptImageError, match="sub-05"):
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=str(path))
    for table in (path, tmp_path / "table.pkl", tmp_path / "table.tsv"):
        table.write_bytes(exploits(marker)[kind])
        with pytest.raises(DesignError, match="table"):
            daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), participants=str(table))


def poison(folder, marker):
    """Replace every kept file by one that would run something, its name and its arrays' names as they were."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix == ".npz"]
    for path in kept:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
        np.savez(path, **dict.fromkeys(names, exploit_array(marker)))
    return len(kept)


def test_pickle_as_kept_moments(cohort, tmp_path, marker):
    model = SecondLevelModel(mask_img=cohort.mask_img, memory=str(tmp_path / "cache"))
    z = model.fit(cohort.paths, design_matrix=cohort.design).compute_contrast("age")
    assert poison(tmp_path / "cache", marker) >= 1
    # What cannot be read without unpickling is made anew.
    again = model.fit(cohort.paths, design_matrix=cohort.design).compute_contrast("age")
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(z.dataobj))


def test_pickle_as_kept_rearrangements(cohort, tmp_path, marker):
    arguments = (cohort.paths, str(tmp_path / "out"), "~ age", {"age": "age"})
    options = {"participants": cohort.table, "mask": cohort.mask_img, "overwrite": True}
    first = permutation_analysis(*arguments, n_perm=200, **options)
    poison(tmp_path / "out", marker)
    again = permutation_analysis(*arguments, n_perm=200, **options)
    assert again.maps.drop_attrs().equals(first.maps.drop_attrs())


def test_pickle_as_rearrangements(tmp_path, marker):
    folder = tmp_path / "kept"
    save_unit(str(folder), "abc", 0, 4, {"t": np.ones((1, 4))}, {"t": np.ones((1, 5), np.int64)})
    assert len(load_units(str(folder), "abc", 4)) == 1
    assert poison(folder, marker) == 1
    assert load_units(str(folder), "abc", 4) == []


def test_pickle_as_checkpoint(cohort, tmp_path, marker):
    from daskglm.io.checkpoints import load_checkpoint

    np.savez(tmp_path / "00000-00001.npz", **{"0.gram": exploit_array(marker), "0.constant": np.empty(0)})
    with pytest.raises(DaskGLMError, match="is damaged"):
        load_checkpoint(str(tmp_path / "00000-00001.npz"))


@pytest.fixture
def store(cohort, tmp_path):
    path = tmp_path / "all.zarr"
    daskglm.convert(cohort.paths, str(path), mask=cohort.mask_img, participants=cohort.table)
    return path


def refused(store, tmp_path, cohort, message):
    """Every way to a store refuses it, and decodes no chunk."""
    for use in (
        lambda: daskglm.open_images(str(store)),
        lambda: group_analysis(str(store), str(tmp_path / "out"), "~ age", {"age": "age"}),
        lambda: daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img, participants=cohort.table),
    ):
        with pytest.raises(StoreError, match=message):
            use()


def change_metadata(store, change, name="data", *, consolidated=True, own=True):
    """Change an array's own metadata, and the copy of it in the group's."""
    root = json.loads((store / "zarr.json").read_text())
    if consolidated:
        change(root["consolidated_metadata"]["metadata"][name])
        (store / "zarr.json").write_text(json.dumps(root))
    if own:
        path = store / name / "zarr.json"
        metadata = json.loads(path.read_text())
        change(metadata)
        path.write_text(json.dumps(metadata))


def codec(name):
    return lambda metadata: metadata["codecs"].append({"name": name, "configuration": {}})


def sized(*shape):
    def change(metadata):
        metadata["shape"] = list(shape)

    return change


def chunked(*shape):
    def change(metadata):
        metadata["shape"] = list(shape)
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = list(shape)

    return change


def typed(name):
    def change(metadata):
        metadata["data_type"] = name
        metadata["fill_value"] = 0

    return change


METADATA = {
    "pickle": (codec("numcodecs.pickle"), "data"),
    "pickle2": (codec("pickle"), "sample"),
    "unknown codec": (codec("rot13"), "age"),
    "codec that is known, but not ours": (codec("numcodecs.lzma"), "age"),
    "object type": (typed("object"), "sex"),
    "type of bytes": (typed("r64"), "age"),
    "complex type": (typed("complex128"), "age"),
    "10^15 samples": (sized(10**15, 90), "data"),
    "10^15 names": (sized(10**15), "sample"),
    "10^15 voxels": (sized(10**15), "voxel"),
    "10^15 values of a column": (sized(10**15), "age"),
    "a chunk of 10^15": (chunked(12, 10**14), "data"),
    "no list of codecs": (lambda metadata: metadata.pop("codecs"), "data"),
    "negative size": (sized(-1, 90), "data"),
}


@pytest.fixture
def undecodable(monkeypatch):
    """No chunk may be decoded."""

    def decode(*_, **__):
        raise AssertionError("a chunk is decoded")

    for kind in (zarr.codecs.BloscCodec, zarr.codecs.Crc32cCodec, zarr.codecs.VLenUTF8Codec):
        monkeypatch.setattr(kind, "_decode_single", decode)


@pytest.mark.parametrize("fault", METADATA)
def test_metadata(cohort, tmp_path, store, undecodable, fault):
    change, name = METADATA[fault]
    change_metadata(store, change, name)
    tracemalloc.start()
    refused(store, tmp_path, cohort, rf"all\.zarr|{name} of the store")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize("fault", ["pickle", "codec that is known, but not ours", "10^15 voxels", "complex type"])
def test_metadata_of_the_consolidated_copy_alone(store, fault):
    """What is checked is what is read: the copy in the group's metadata, which xarray goes by, has no say."""
    whole = daskglm.open_images(str(store)).compute()
    change, name = METADATA[fault]
    change_metadata(store, change, name, own=False)
    assert daskglm.open_images(str(store)).compute().equals(whole)


def test_zarr_2_with_pickles(cohort, tmp_path, marker):
    path = tmp_path / "two.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(str(path), mode="w", zarr_format=2)
        group.attrs["format_version"] = 1
    (path / "sample").mkdir()
    description = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "fill_value": None, "order": "C",
                   "compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}  # fmt: skip
    (path / "sample" / ".zarray").write_text(json.dumps(description))
    (path / "sample" / "0").write_bytes(pickle.dumps(exploit_array(marker)))
    with pytest.raises(StoreError):
        daskglm.open_images(str(path))
    with pytest.raises(DaskGLMError):
        group_analysis(str(path), str(tmp_path / "out"), "~ 1", {"mean": "intercept"})


@pytest.mark.parametrize("name", ["data", "sample", "age", "voxel"])
def test_pickle_as_chunk(store, tmp_path, marker, name):
    for chunk in (store / name / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(pickle.dumps(Exploit(marker)))
    with pytest.raises((StoreError, ValueError, RuntimeError), match=r"(?i)checksum|damaged|cannot"):
        group_analysis(str(store), str(tmp_path / "out"), "~ age", {"age": "age"})


def header(shape, dtype):
    found = nib.Nifti1Header()
    found.set_data_shape(shape)
    found.set_data_dtype(dtype)
    found["vox_offset"] = 352
    found["magic"] = b"n+1"
    return found.binaryblock + bytes(4)


def endless(path, head, n_bytes):
    """A compressed file of a header and very many zeros, made in little memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with open(path, "wb") as file:
        file.write(packer.compress(head))
        for _ in range(n_bytes // 2**22):
            file.write(packer.compress(bytes(2**22)))
        file.write(packer.flush())


READERS = {
    "header": read_header, "values": read_values, "mask": read_mask,
    "volumes": lambda path: [None for _ in stream_volumes(path)],
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bomb", ["petabytes", "expands", "uncompressed", "offset"])
def test_bombs(tmp_path, bomb, reader):
    path = tmp_path / ("sub-01.nii" if bomb == "uncompressed" else "sub-01.nii.gz")
    if bomb == "petabytes":
        path.write_bytes(gzip.compress(header((30_000, 30_000, 30_000, 100), np.float64)))
    elif bomb == "uncompressed":
        path.write_bytes(header((30_000, 30_000, 30_000), np.float64) + bytes(1000))
    elif bomb == "offset":
        changed = bytearray(header((4, 4, 4), np.float32) + bytes(256))
        changed[108:112] = np.float32(3e38).tobytes()
        path.write_bytes(gzip.compress(bytes(changed)))
    else:
        endless(path, header((4, 4, 4), np.float32), 2**28)
        assert path.stat().st_size < 300_000
    if (bomb, reader) == ("expands", "header"):
        assert read_header(str(path)).shape == (4, 4, 4)  # what follows is not its business
        return
    tracemalloc.start()
    try:
        with pytest.raises(CorruptImageError, match=r"sub-01\.nii.*(promises)"):
            READERS[reader](str(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_stream_is_read_no_further_than_promised(tmp_path, monkeypatch):
    path = tmp_path / "sub-01.nii.gz"
    endless(path, header((4, 4, 4), np.float32), 2**26)
    decoded = []
    from daskglm.io import nifti

    read = nifti._GzipStream.read

    def counted(self, n_bytes):
        data = read(self, n_bytes)
        decoded.append(len(data))
        return data

    monkeypatch.setattr(nifti._GzipStream, "read", counted)
    with pytest.raises(CorruptImageError, match="more than the 608 bytes"):
        read_values(str(path))
    assert sum(decoded) == 609


def test_store_that_is_copied_is_opened(store, tmp_path):
    """The checks refuse nothing that a careful user does: copying, or writing again by xarray with its own codecs."""
    import xarray as xr

    whole = daskglm.open_images(str(store)).compute()
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    assert daskglm.open_images(str(copy)).equals(whole)
    again = tmp_path / "again.zarr"
    for variable in whole.variables.values():
        variable.encoding.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.to_zarr(again, zarr_format=3)
    assert xr.open_zarr(again)["data"].equals(whole["data"])
    assert daskglm.open_images(str(again))["data"].equals(whole["data"])


@pytest.mark.parametrize(
    ("load", "names"),
    [
        (cache.load_arrays, ["arr_0"]),
        (cache.load_runs, [f"0.{name}" for name in (*cache._RUN_FIELDS, "constant")]),
        (cache.load_moments, [f"0.{name}" for name in (*cache._FIELDS, "n_samples", "constant")]),
    ],
)
def test_what_was_kept_is_never_unpickled(tmp_path, marker, load, names):
    np.savez(tmp_path / "a.npz", **{name: exploit_array(marker) for name in names})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load(str(tmp_path / "a.npz"))


def test_a_unit_of_permutations_is_never_unpickled(tmp_path, marker):
    pickled = {f"{kind}_stat": exploit_array(marker) for kind in ("maxima", "counts")}
    np.savez(tmp_path / f"k_{0:09d}-{4:09d}.npz", **pickled)
    assert load_units(str(tmp_path), "k", 4) == []


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda size: {"shape": [size], "dimension_names": ["sample"]}, 10_000_000),
        (lambda size: {"shape": [size], "dimension_names": ["voxel"]}, 2**28),
        (lambda size: {"shape": [size]}, 2**28),
        (lambda size: {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [16, size]}}}, 2**24),
    ],
)
def test_sizes_are_believed_to_the_last_that_a_store_may_have(change, most):
    array = {
        "zarr_format": 3, "data_type": "float64", "codecs": [{"name": "bytes"}], "shape": [0],
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
    }  # fmt: skip
    assert _fault({**array, **change(0)}) is None
    assert _fault({**array, **change(most)}) is None
    assert "up to " in _fault({**array, **change(most + 1)})
