"""Cohort stores: complete for a subject, or silent about it."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from cohorts import AFFINE
from dask.callbacks import Callback
from scipy.stats import ttest_1samp

import daskglm
from daskglm.errors import CorruptImageError, DesignError, ImageError, OutputError, SpaceError, StoreError
from daskglm.graph import convert as graph_convert
from daskglm.io import store as store_module
from daskglm.io import store_speed, store_writing
from daskglm.models import convert as convert_module
from daskglm.models.options import Options, header_image, preparation
from daskglm.models.plan_convert import plan_conversion


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks along both axes with a dozen small images."""
    monkeypatch.setattr(store_writing, "SAMPLES_PER_CHUNK", 4)
    monkeypatch.setattr(store_writing, "VOXELS_PER_CHUNK", 40)


def test_opening_is_xarray_and_nothing_else(cohort, tmp_path, small_chunks):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img, participants=cohort.table_path)
    images = xr.open_zarr(path)
    assert images["data"].dims == ("sample", "voxel")
    assert images["data"].dtype == np.float64
    assert [str(name) for name in images["sample"].values] == cohort.names
    assert np.array_equal(images["data"].values, cohort.vectors)
    assert np.array_equal(images["age"].values, cohort.table["age"])
    assert [str(value) for value in images["sex"].values] == list(cohort.table["sex"])
    assert [os.path.basename(str(name)) for name in images["source"].values] == [Path(p).name for p in cohort.paths]
    assert images["source_size"].values.tolist() == [os.path.getsize(p) for p in cohort.paths]
    assert images.attrs["software"]["zarr"].startswith("3.")


def test_codecs_and_fill(cohort, tmp_path):
    path = tmp_path / "cohort.zarr"
    daskglm.convert(cohort.paths, str(path), mask=cohort.mask_img)
    metadata = json.loads((path / "data" / "zarr.json").read_text())
    names = [codec["name"] for codec in metadata["codecs"]]
    assert names == ["bytes", "blosc", "crc32c"]
    blosc = metadata["codecs"][1]["configuration"]
    assert (blosc["cname"], blosc["shuffle"], metadata["fill_value"]) == ("lz4", "bitshuffle", "NaN")
    assert metadata["zarr_format"] == 3


def test_a_store_that_cannot_be_made_is_told_with_a_remedy(cohort, tmp_path):
    space = daskglm.VolumeSpace.from_image(cohort.mask_img)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot create the store .*choose another output"):
        store_writing.create_store(str(tmp_path / "file" / "a.zarr"), space, {})
    store_writing.create_store(str(tmp_path / "b.zarr"), space, {})
    with pytest.raises(OutputError, match=r"cannot create the store .*choose another output"):
        store_writing.create_store(str(tmp_path / "b.zarr"), space, {})


KINDS = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


@pytest.mark.parametrize("said", [{"finished": False}, {"left_out": 1}, {"finished": False, "left_out": 1}])
def test_a_store_is_whole_only_where_all_that_was_announced_is_there(cohort, tmp_path, said):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    daskglm.open_images(path)
    zarr.open_group(path, mode="r+").attrs.update(said)
    with pytest.raises(StoreError, match=r"not finished \(12 of 12 samples are complete\); run the same convert"):
        daskglm.open_images(path)


def test_what_writing_takes_is_told_of_one_value(monkeypatch):
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(store_speed, "SAMPLES_PER_CHUNK", 4)
    monkeypatch.setattr(store_speed, "VOXELS_PER_CHUNK", 50)
    monkeypatch.setattr(store_speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert store_speed.write_seconds(np.float32) == 2.0 / 200


def test_columns_of_every_kind_of_number_are_opened(cohort, tmp_path):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    group, values = zarr.open_group(path, mode="r+"), np.arange(len(cohort.paths))
    for kind in KINDS:
        group.create_array(f"my_{kind}", data=values.astype(kind), dimension_names=("sample",))
    images = daskglm.open_images(path)
    for kind in KINDS:
        assert images[f"my_{kind}"].dtype == kind
        assert np.array_equal(images[f"my_{kind}"].values, values.astype(kind))


def test_ten_thousand_subjects_are_two_thousand_objects():
    samples, voxels = -(-10_000 // store_module.SAMPLES_PER_CHUNK), -(-200_000 // store_module.VOXELS_PER_CHUNK)
    assert 1500 <= samples * voxels <= 2500
    assert 2e6 <= 4 * store_module.SAMPLES_PER_CHUNK * store_module.VOXELS_PER_CHUNK <= 8e6


def test_append(cohort, tmp_path, small_chunks):
    at_once, in_steps = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    daskglm.convert(cohort.paths, at_once, mask=cohort.mask_img, participants=cohort.table)
    for stop in (3, 6, 12):
        result = daskglm.convert(
            cohort.paths[:stop], in_steps, mask=cohort.mask_img, participants=cohort.table.iloc[:stop]
        )
    assert result.kept == cohort.names[:6]
    assert result.written == cohort.names[6:]
    first, second = daskglm.open_images(at_once).load(), daskglm.open_images(in_steps).load()
    assert first.drop_attrs().equals(second.drop_attrs())


def test_an_interruption_claims_nothing_and_continues(cohort, tmp_path, small_chunks, monkeypatch):
    path = str(tmp_path / "cohort.zarr")
    original = graph_convert.write_samples

    def stop_at_second_chunk(store, target, *rest):
        if target.chunk == 1:
            raise KeyboardInterrupt
        original(store, target, *rest)

    monkeypatch.setattr(graph_convert, "write_samples", stop_at_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    named = [str(name) for name in xr.open_zarr(path, consolidated=False)["sample"].values]
    assert set(named[4:8]) == {""}
    with pytest.raises(StoreError, match="run the same convert"):
        daskglm.open_images(path)
    with pytest.raises(StoreError, match="never written"):
        daskglm.SecondLevelModel().fit(xr.open_zarr(path, consolidated=False), design_matrix=cohort.design)
    monkeypatch.setattr(graph_convert, "write_samples", original)
    result = daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    assert set(result.written).isdisjoint(result.kept)
    assert set(result.written) | set(result.kept) == set(cohort.names)
    images = daskglm.open_images(path).load()
    order = [cohort.names.index(str(name)) for name in images["sample"].values]
    assert np.array_equal(images["data"].values, cohort.vectors[order])


@pytest.mark.parametrize("changed", ["image", "table"])
def test_an_interrupted_overwriting_starts_anew_where_its_input_has_changed(
    cohort, tmp_path, small_chunks, monkeypatch, changed
):
    path, table, original = str(tmp_path / "cohort.zarr"), str(tmp_path / "table.tsv"), graph_convert.write_samples
    cohort.table.to_csv(table, sep="\t", index=False)
    images = [shutil.copy(image, tmp_path) for image in cohort.paths]

    def convert():
        return daskglm.convert(images, path, mask=cohort.mask_img, participants=table, overwrite=True)

    def stop_at_second_chunk(store, target, *rest):
        if target.chunk == 1:
            raise OSError("no space")
        original(store, target, *rest)

    monkeypatch.setattr(graph_convert, "write_samples", stop_at_second_chunk)
    with pytest.raises(OSError, match="no space"):
        convert()
    monkeypatch.setattr(graph_convert, "write_samples", original)
    expected = np.array(cohort.vectors)
    if changed == "image":
        shutil.copy(images[1], images[0])
        expected[0] = expected[1]
        with pytest.warns(UserWarning, match="have the same bytes"):
            convert()
    else:
        cohort.table.assign(iq=100.0).to_csv(table, sep="\t", index=False)
        convert()
        assert (daskglm.open_images(path)["iq"] == 100).all()
    found = daskglm.open_images(path).load()
    order = [cohort.names.index(str(name)) for name in found["sample"].values]
    assert np.array_equal(found["data"].values, expected[order])


def test_data_before_names(cohort, tmp_path, small_chunks, monkeypatch):
    """Killed between the data of a chunk and its names: the samples are not claimed."""
    path = str(tmp_path / "cohort.zarr")
    original = store_writing.array_of

    def no_names(group, name):
        if name == "sample" and group.store_path.read_only is False and group["sample"].shape[0] == 12:
            raise KeyboardInterrupt
        return original(group, name)

    monkeypatch.setattr(store_writing, "array_of", no_names)
    with pytest.raises(KeyboardInterrupt):
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    monkeypatch.setattr(store_writing, "array_of", original)
    images = xr.open_zarr(path, consolidated=False)
    assert {str(name) for name in images["sample"].values} == {""}
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    assert np.array_equal(daskglm.open_images(path)["data"].values, cohort.vectors)


def test_a_lost_chunk_is_noticed(cohort, tmp_path, small_chunks):
    path = tmp_path / "cohort.zarr"
    daskglm.convert(cohort.paths, str(path), mask=cohort.mask_img)
    (path / "data" / "c" / "1" / "0").unlink()
    with pytest.raises(StoreError, match="8 of 9 chunks"):
        daskglm.open_images(str(path))


def test_every_flipped_bit_of_a_chunk_is_noticed(cohort, tmp_path):
    path = tmp_path / "cohort.zarr"
    daskglm.convert(cohort.paths, str(path), mask=cohort.mask_img)
    chunk = path / "data" / "c" / "0" / "0"
    whole, rng = chunk.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.integers(0, len(whole))] ^= 1 << rng.integers(8)
        chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match="checksum"):
            daskglm.open_images(str(path))["data"].values  # noqa: B018


def test_quarantine(cohort, tmp_path, small_chunks):
    damaged = bytearray(Path(cohort.paths[5]).read_bytes())
    damaged[-300] ^= 4
    Path(cohort.paths[5]).write_bytes(damaged)
    shutil.copy(cohort.paths[0], tmp_path / "keep.nii.gz")
    Path(cohort.paths[9]).write_bytes(b"")
    path = str(tmp_path / "cohort.zarr")
    with pytest.raises(CorruptImageError, match=r"sub-10"):
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    result = daskglm.convert(cohort.paths, path, mask=cohort.mask_img, on_error="quarantine")
    assert set(result.quarantined) == {"sub-06", "sub-10"}
    listed = pd.read_csv(tmp_path / "cohort_quarantined.tsv", sep="\t")
    assert set(listed["sample"]) == {"sub-06", "sub-10"}
    images = daskglm.open_images(path)
    kept = [k for k in range(12) if k not in (5, 9)]
    assert [str(name) for name in images["sample"].values] == [cohort.names[k] for k in kept]
    assert np.array_equal(images["data"].values, cohort.vectors[kept])
    # The file is restored: the same command takes it in, and the list is gone.
    for k in (5, 9):
        shutil.copy(cohort.paths[0], cohort.paths[k])
    with pytest.warns(UserWarning, match="same bytes: sub-01 and sub-06, sub-01 and sub-10; check that each is"):
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img, on_error="quarantine")
    assert daskglm.open_images(path).sizes["sample"] == 12
    assert not (tmp_path / "cohort_quarantined.tsv").exists()


@pytest.mark.parametrize("n_arrays", range(8))
def test_a_disk_that_was_full_before_the_first_sample_leaves_nothing_that_hinders(
    cohort, tmp_path, monkeypatch, n_arrays
):
    path = str(tmp_path / "cohort.zarr")
    create, made = store_writing._create, []

    def fill_the_disk(group, name, *more):
        if len(made) == n_arrays:
            raise OSError(errno.ENOSPC, "No space left on device")
        made.append(name)
        create(group, name, *more)

    with monkeypatch.context() as patch:
        patch.setattr(store_writing, "_create", fill_the_disk)
        with pytest.raises(OutputError, match="No space left on device"):
            daskglm.convert(cohort.paths, path, mask=cohort.mask_img, participants=cohort.table)
    # Nobody came: with other columns, too.
    table = cohort.table.rename(columns={"sex": "arm"}).assign(age=[*"abcdefghijkl"])
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img, participants=table)
    images = daskglm.open_images(path)
    assert np.array_equal(images["data"].values, cohort.vectors)
    assert [str(value) for value in images["age"].values] == [*"abcdefghijkl"]
    assert ("arm" in images, "sex" in images) == (True, False)


def test_what_does_not_belong_is_refused(cohort, tmp_path):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths[:6], path, mask=cohort.mask_img, participants=cohort.table.iloc[:6])
    with pytest.raises(StoreError, match="same columns"):
        daskglm.convert(cohort.paths, path)
    with pytest.raises(StoreError, match="treated alike"):
        daskglm.convert(cohort.paths, path, missing="zero", participants=cohort.table)
    with pytest.raises(DesignError, match="sub-12"):
        daskglm.convert(cohort.paths, path, participants=cohort.table.iloc[:11])
    Path(cohort.paths[0]).write_bytes(Path(cohort.paths[0]).read_bytes() + bytes(1))
    with pytest.raises(StoreError, match=r"other contents.*overwrite=True"):
        daskglm.convert(cohort.paths, path, participants=cohort.table)
    with pytest.raises(ImageError, match="twice"):
        daskglm.convert([cohort.paths[0]] * 2, str(tmp_path / "other.zarr"))
    with pytest.raises(StoreError, match="no Zarr store"):
        daskglm.open_images(str(tmp_path / "nowhere.zarr"))


def test_another_mask_for_a_store_is_refused(cohort, tmp_path):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths[:6], path, mask=cohort.mask_img)
    with pytest.raises(SpaceError, match="one mask"):
        daskglm.convert(cohort.paths, path, mask=False)


def test_missing_zero_and_coverage(gappy, tmp_path):
    """Zeros outside the brain make no mask and, on request, no data."""
    path = str(tmp_path / "cohort.zarr")
    result = daskglm.convert(gappy.paths, path, missing="zero", min_coverage=0.9)
    everywhere = (np.isfinite(gappy.data) & (gappy.data != 0)).sum(axis=0) >= 0.9 * 12
    assert result.n_voxels == everywhere.sum()
    assert np.isfinite(daskglm.open_images(path)["data"].values).mean() > 0.9


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("at", ["while it is created", "while it is filled", "while it is appended to"])
def test_a_second_conversion_into_a_store_is_refused_at_once_and_harms_nothing(
    cohort, tmp_path, small_chunks, monkeypatch, at, overwrite
):
    path, first = str(tmp_path / "cohort.zarr"), cohort.paths
    name = "create_store" if at == "while it is created" else "write_files"
    original, refused = getattr(convert_module, name), []
    if at == "while it is appended to":
        daskglm.convert(cohort.paths[:5], path, mask=cohort.mask_img)

    def with_another(*given, **named):
        monkeypatch.setattr(convert_module, name, original)
        for place in (path, f"{path}/", os.path.relpath(path)):
            with pytest.raises(OutputError, match=r"another writes to .*cohort\.zarr \(process \d+"):
                daskglm.convert(cohort.paths[3:], place, mask=cohort.mask_img, overwrite=overwrite)
            refused.append(place)
        return original(*given, **named)

    monkeypatch.setattr(convert_module, name, with_another)
    result = daskglm.convert(first, path, mask=cohort.mask_img)
    assert len(refused) == 3
    assert sorted(result.written + result.kept) == cohort.names
    images = daskglm.open_images(path).load()
    order = [cohort.names.index(str(sample)) for sample in images["sample"].values]
    assert sorted(order) == list(range(12))
    assert np.array_equal(images["data"].values, cohort.vectors[order])
    # Afterwards the place is free again.
    assert daskglm.convert(first, path, mask=cohort.mask_img).written == []


def test_overwrite(cohort, tmp_path):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    result = daskglm.convert(cohort.paths[:4], path, mask=cohort.mask_img, overwrite=True)
    assert result.written == cohort.names[:4]
    assert daskglm.open_images(path).sizes["sample"] == 4


def test_overwriting_is_not_destroying(cohort, tmp_path):
    """What cannot be converted leaves the store that was there; what is no store of daskglm is left alone."""
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    Path(cohort.paths[2]).write_bytes(b"")
    with pytest.raises(CorruptImageError):
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img, overwrite=True)
    assert daskglm.open_images(path).sizes["sample"] == 12
    foreign = tmp_path / "foreign.zarr"
    xr.Dataset({"thesis": ("page", np.arange(3.0))}).to_zarr(foreign, consolidated=False)
    with pytest.raises(OutputError, match="not a store of daskglm"):
        daskglm.convert(cohort.paths[3:], str(foreign), mask=cohort.mask_img, overwrite=True)
    assert xr.open_zarr(foreign, consolidated=False)["thesis"].size == 3


def test_a_folder_of_other_files_is_never_a_store(cohort):
    """Converting into the folder of the images themselves, overwriting or not, leaves them alone."""
    folder = str(cohort.folder)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="other files"):
            daskglm.convert(cohort.paths, folder, mask=cohort.mask_img, overwrite=overwrite)
    store = cohort.folder / "cohort.zarr"
    daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    shutil.copy(cohort.paths[0], store)
    with pytest.raises(OutputError, match="sub-01"):
        daskglm.convert(cohort.paths, store, mask=cohort.mask_img, overwrite=True)
    assert all(Path(path).exists() for path in cohort.paths)


def test_a_file_changed_in_place_is_noticed(cohort, tmp_path):
    """Uncompressed images have the same size whatever is in them."""
    paths = []
    for index, values in enumerate(cohort.data[:4]):
        paths.append(str(tmp_path / f"sub-{index}.nii"))
        nib.Nifti1Image(values, cohort.mask_img.affine).to_filename(paths[-1])
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(paths, store, mask=cohort.mask_img)
    os.utime(paths[1])  # touched, not changed
    assert len(daskglm.convert(paths, store, mask=cohort.mask_img).kept) == 4
    nib.Nifti1Image(cohort.data[2] + 100, cohort.mask_img.affine).to_filename(paths[2])
    os.utime(paths[2], ns=(1, 1))
    with pytest.raises(StoreError, match="sub-2 from a file with other contents"):
        daskglm.convert(paths, store, mask=cohort.mask_img)


def test_a_corrected_table_is_noticed(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, store, mask=cohort.mask_img, participants=cohort.table)
    corrected = cohort.table.assign(age=[99.0, *cohort.table["age"][1:]])
    with pytest.raises(StoreError, match=r"'age' of sub-01 .*is not what the participants table says"):
        daskglm.convert(cohort.paths, store, mask=cohort.mask_img, participants=corrected)
    other = str(tmp_path / "other.zarr")
    daskglm.convert(cohort.paths[:6], other, mask=cohort.mask_img, participants=cohort.table.iloc[:6])
    as_text = cohort.table.assign(age="old").iloc[6:]
    with pytest.raises(StoreError, match=r"age in .* are numbers and now text"):
        daskglm.convert(cohort.paths[6:], other, mask=cohort.mask_img, participants=as_text)


def test_a_column_that_came_later_is_noticed(cohort, tmp_path):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img, participants=cohort.table)
    later = cohort.table.assign(iq=100.0)
    with pytest.raises(StoreError, match=r"was made without iq of the participants table; .* overwrite=True"):
        daskglm.convert(cohort.paths, path, mask=cohort.mask_img, participants=later)
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img, participants=later, overwrite=True)
    assert (daskglm.open_images(path)["iq"] == 100).all()


def test_new_files_with_the_whole_table(cohort, tmp_path):
    """Appending: the table may have the subjects that the store has already."""
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths[:8], store, mask=cohort.mask_img, participants=cohort.table.iloc[:8])
    result = daskglm.convert(cohort.paths[8:], store, mask=cohort.mask_img, participants=cohort.table)
    assert result.written == cohort.names[8:]
    images = daskglm.open_images(store)
    assert np.array_equal(images["age"].values, cohort.table["age"])


def test_quarantine_is_remembered_and_of_one_store(cohort, tmp_path):
    stores = {name: str(tmp_path / f"{name}.zarr") for name in "ab"}
    Path(cohort.paths[3]).write_bytes(b"")
    daskglm.convert(cohort.paths[:6], stores["a"], mask=cohort.mask_img, on_error="quarantine")
    daskglm.convert(cohort.paths[6:], stores["b"], mask=cohort.mask_img)
    daskglm.convert(cohort.paths[6:], stores["a"], mask=cohort.mask_img)
    listed = pd.read_csv(tmp_path / "a_quarantined.tsv", sep="\t")
    assert listed["sample"].tolist() == ["sub-04"]
    assert list(daskglm.open_images(stores["a"]).attrs["quarantined"]) == ["sub-04"]
    assert not (tmp_path / "b_quarantined.tsv").exists()


def test_a_conversion_that_left_files_out_can_be_given_again(cohort, tmp_path):
    store = str(tmp_path / "a.zarr")
    Path(cohort.paths[3]).write_bytes(b"")
    for kept in ([], [name for name in cohort.names if name != "sub-04"]):
        plan_conversion(cohort.paths, store, mask=cohort.mask_img, on_error="quarantine")
        done = daskglm.convert(cohort.paths, store, mask=cohort.mask_img, on_error="quarantine")
        assert (done.kept, list(done.quarantined)) == (kept, ["sub-04"])
        assert pd.read_csv(tmp_path / "a_quarantined.tsv", sep="\t")["sample"].tolist() == ["sub-04"]
    with pytest.raises(CorruptImageError, match="the file is empty"):
        daskglm.convert(cohort.paths, store, mask=cohort.mask_img)


def test_quarantine_without_a_mask(cohort, tmp_path):
    """The pass that finds the mask leaves damaged files out as well."""
    damaged = bytearray(Path(cohort.paths[5]).read_bytes())
    damaged[-300] ^= 4
    Path(cohort.paths[5]).write_bytes(damaged)
    result = daskglm.convert(cohort.paths, str(tmp_path / "cohort.zarr"), on_error="quarantine")
    assert list(result.quarantined) == ["sub-06"]
    assert len(result.written) == 11
    assert result.n_voxels == cohort.mask.sum()


def test_a_failed_append_leaves_the_store_usable(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths[:6], store, mask=cohort.mask_img)
    damaged = bytearray(Path(cohort.paths[8]).read_bytes())
    damaged[-300] ^= 4
    Path(cohort.paths[8]).write_bytes(damaged)
    for paths in (cohort.paths, cohort.paths[6:]):
        with pytest.raises(CorruptImageError, match="sub-09"):
            daskglm.convert(paths, store, mask=cohort.mask_img)
        images = daskglm.open_images(store)
        assert [str(name) for name in images["sample"].values][:6] == cohort.names[:6]
        assert np.array_equal(images["data"].values[:6], cohort.vectors[:6])


def test_lost_labels_are_noticed(cohort, tmp_path):
    store = tmp_path / "cohort.zarr"
    daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    shutil.rmtree(store / "voxel" / "c")
    with pytest.raises(StoreError, match="chunks of voxel"):
        daskglm.open_images(str(store))
    with pytest.raises(ImageError, match="ascend"):
        daskglm.SecondLevelModel().fit(xr.open_zarr(store), design_matrix=cohort.design)


def test_smoothing_is_part_of_the_store(cohort, tmp_path):
    store = str(tmp_path / "cohort.zarr")
    for stop, fwhm in ((6, 4), (9, (4, 4, 4)), (12, [4.0, 4.0, 4.0])):
        daskglm.convert(cohort.paths[:stop], store, mask=cohort.mask_img, smoothing_fwhm=fwhm)
    with pytest.raises(StoreError, match="treated alike"):
        daskglm.convert(cohort.paths, store, mask=cohort.mask_img)
    model = daskglm.SecondLevelModel(mask_img=cohort.mask_img)
    z = model.fit(store, design_matrix=cohort.design).compute_contrast("age")
    smoothed = daskglm.SecondLevelModel(mask_img=cohort.mask_img, smoothing_fwhm=4)
    expected = smoothed.fit(cohort.paths, design_matrix=cohort.design).compute_contrast("age")
    assert np.allclose(np.asarray(z.dataobj), np.asarray(expected.dataobj), atol=1e-4)


def test_a_store_larger_than_a_block_is_read_in_blocks(cohort, tmp_path, small_chunks, monkeypatch):
    path = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, path, mask=cohort.mask_img)
    assert daskglm.open_images(path)["data"].chunks == ((12,), (90,))  # little: one block
    monkeypatch.setattr(store_module, "_BLOCK_BYTES", 2 * 8 * 4 * 40)  # two chunks
    data = daskglm.open_images(path)["data"]
    assert data.chunks == ((8, 4), (40, 40, 10))
    assert np.array_equal(data.values, cohort.vectors)
    monkeypatch.undo()
    n_samples, n_voxels = 10_000, 200_000
    stored = (store_module.SAMPLES_PER_CHUNK, store_module.VOXELS_PER_CHUNK)
    blocks = store_module._task_chunks((n_samples, n_voxels), stored, 4)
    assert 4 * blocks["sample"] * blocks["voxel"] <= 2**25
    assert blocks["sample"] < n_samples
    assert blocks["voxel"] < n_voxels


def test_coverage_is_added_by_the_workers(cohort, monkeypatch):
    monkeypatch.setattr(graph_convert, "SAMPLES_PER_CHUNK", 2)
    monkeypatch.setattr(graph_convert, "_COUNTS_TOGETHER", 2)
    names = dict(zip(cohort.names, cohort.paths, strict=True))
    Path(cohort.paths[4]).write_bytes(b"no image")
    how = preparation(header_image(cohort.paths[0]), Options(mask_img=False))
    with Counting() as counting:
        counts, faults = graph_convert.count_coverage(names, how, "quarantine")
    assert graph_convert.coverage_tree(12) == [6, 3, 2, 1]
    assert counting.n_tasks == 12
    assert list(faults) == ["sub-05"]
    expected = np.count_nonzero(np.delete(cohort.data, 4, axis=0), axis=0)
    assert np.array_equal(counts, expected.ravel(order="F"))
    with pytest.raises(CorruptImageError, match="sub-05"):
        graph_convert.count_coverage(names, how, "stop")


class Counting(Callback):
    """Counts the tasks that run."""

    n_tasks = 0

    def _posttask(self, *_):
        self.n_tasks += 1


def stored(images, path, **options):
    """What a store made of images says of their values."""
    daskglm.convert(images, str(path), **options)
    return daskglm.open_images(str(path))


EMPTY = {"nothing": np.nan, "zero": 0, "no": False, "text": "", "none": None}


@pytest.mark.parametrize("name", EMPTY)
def test_a_column_of_nothing_is_stored(cohort, tmp_path, small_chunks, name):
    """A column whose values are all missing, or all what an array is filled with: written, opened, appended to."""
    table = cohort.table.assign(**{name: EMPTY[name]})
    path, options = tmp_path / "all.zarr", {"participants": table, "mask": cohort.mask_img}
    for count in (8, 12):
        images = stored(cohort.paths[:count], path, **{**options, "participants": table[:count]})
        assert images.sizes["sample"] == count
    values = images[name].values
    assert pd.isna(values).all() or set(values.tolist()) <= {0, "False", ""}


def test_columns_that_are_no_names_of_arrays(cohort, tmp_path):
    for name in ("n/a", "__age", "..", ""):
        table = cohort.table.assign(**{name: 1.0})
        with pytest.raises(ImageError, match=f"no slash .*{name!r}; rename them"):
            daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), participants=table, mask=cohort.mask_img)


def test_a_block_without_data_is_stored(cohort, tmp_path, small_chunks):
    """A site without the lower half of the brain: alone, and appended to a store of others."""
    bare, half = [path.replace("sub-", "low_sub-1") for path in cohort.paths], np.zeros(cohort.mask.shape, bool)
    half[:, :, :2] = True
    for path, values in zip(bare, cohort.data, strict=True):
        nib.Nifti1Image(np.where(half, np.nan, values), AFFINE).to_filename(path)
    inside = half.ravel(order="F")[cohort.mask.ravel(order="F")]
    expected = np.where(inside, np.nan, cohort.vectors)
    alone = stored(bare, tmp_path / "bare.zarr", mask=cohort.mask_img)
    np.testing.assert_array_equal(alone["data"].values, expected)
    stored(cohort.paths[:8], tmp_path / "all.zarr", mask=cohort.mask_img)
    both = stored([*cohort.paths[:8], *bare], tmp_path / "all.zarr", mask=cohort.mask_img)
    np.testing.assert_array_equal(both["data"].values, [*cohort.vectors[:8], *expected])


def test_a_mask_of_the_first_voxel_alone_is_stored(cohort, tmp_path):
    first = np.zeros(cohort.mask.shape, np.uint8)
    first[0, 0, 0] = 1
    images = stored(cohort.paths, tmp_path / "all.zarr", mask=nib.Nifti1Image(first, AFFINE))
    assert images["voxel"].values.tolist() == [0]


def test_a_block_that_no_task_came_to_is_no_loss(cohort, tmp_path, small_chunks):
    """A conversion that failed in the middle, whose later blocks were written: what is whole can be read."""
    path, names = str(tmp_path / "all.zarr"), np.array(cohort.names, dtype=object)
    store_writing.create_store(path, preparation(header_image(cohort.paths[0]), Options(cohort.mask_img)).space, {})
    data = cohort.vectors.astype(np.float32)
    for rows in store_writing.allocate(path, 12, {"age": cohort.table["age"].to_numpy()})[::2]:
        columns = {"age": cohort.table["age"].to_numpy()[rows.rows]}
        store_writing.write_samples(path, rows, data[rows.rows], list(names[rows.rows]), columns)
    store_writing.finish_store(path, {})
    images = daskglm.open_images(path)
    assert images["sample"].values.tolist() == [*cohort.names[:4], *cohort.names[8:]]
    np.testing.assert_array_equal(images["data"].values, data[[*range(4), *range(8, 12)]])


def test_stores_have_the_digits_of_the_images(cohort, tmp_path):
    """T of values around ten million, of float64, scaled and integer images: through a store as SciPy has it."""
    rng = np.random.default_rng(3)
    values = 1e7 + rng.standard_normal((12, *cohort.mask.shape)) + 0.5
    reference = 1e7
    for kind in ("f8", "i4", "i2"):
        paths = []
        for name, data in zip(cohort.names, values, strict=True):
            image = nib.Nifti1Image(data if kind == "f8" else np.round(1000 * (data - reference)).astype(kind), AFFINE)
            if kind != "f8":
                image.header.set_slope_inter(1e-3, reference)
            paths.append(str(tmp_path / f"{name}_{kind}.nii"))
            image.to_filename(paths[-1])
        images = stored(paths, tmp_path / f"{kind}.zarr", mask=cohort.mask_img)
        assert images["data"].dtype == np.float64
        read = np.array([nib.load(path).get_fdata()[cohort.mask] for path in paths])
        design = pd.DataFrame({"intercept": np.ones(12)})
        for given in (str(tmp_path / f"{kind}.zarr"), paths):
            model = daskglm.SecondLevelModel(mask_img=cohort.mask_img).fit(given, design_matrix=design)
            # Against the mean of all, so that t is not a million.
            effect = model.compute_contrast("intercept", output_type="effect_size").get_fdata()[cohort.mask]
            variance = model.compute_contrast("intercept", output_type="effect_variance").get_fdata()[cohort.mask]
            t = (effect - reference) / np.sqrt(variance)
            np.testing.assert_allclose(t, ttest_1samp(read - reference, 0).statistic, rtol=1e-7, atol=1e-7)


def test_a_store_of_fewer_digits_is_not_given_more(cohort, tmp_path):
    """Float32 images make a store of float32; appending others to it is refused, with what to do."""
    single = []
    for name, data in zip(cohort.names[:6], cohort.data, strict=False):
        single.append(str(tmp_path / f"{name}.nii"))
        nib.Nifti1Image(data.astype(np.float32), AFFINE).to_filename(single[-1])
    assert stored(single, tmp_path / "all.zarr", mask=cohort.mask_img)["data"].dtype == np.float32
    with pytest.raises(StoreError, match=r"has float32 values and sub-07.* have more digits .*overwrite=True"):
        daskglm.convert([*single, *cohort.paths[6:]], str(tmp_path / "all.zarr"), mask=cohort.mask_img)
    assert daskglm.open_images(str(tmp_path / "all.zarr")).sizes["sample"] == 6
    both = stored([*single, *cohort.paths[6:]], tmp_path / "both.zarr", mask=cohort.mask_img)
    np.testing.assert_array_equal(both["data"].values[6:], cohort.vectors[6:])
    double = stored(cohort.paths[6:], tmp_path / "double.zarr", mask=cohort.mask_img)
    assert double["data"].dtype == np.float64
    more = stored([*cohort.paths[6:], *single], tmp_path / "double.zarr", mask=cohort.mask_img)
    np.testing.assert_array_equal(more["data"].values[6:], cohort.vectors[:6].astype(np.float32))
