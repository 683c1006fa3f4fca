"""Faulty input: thirteen faults, each stopped with an error that names the file, or left out and reported.

With the faulty subject in quarantine, the rest is bit for bit what it is without that subject.
"""

import ctypes
import gzip
import os
import re
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import daskglm
from daskglm.cli.main import main
from daskglm.errors import DaskGLMError, ImageError, StoreError
from daskglm.models.group import group_analysis

FAULTY = 4
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2
LINUX_CAPABILITY_VERSION_3 = 0x20080522
UNDISTURBED: dict[str, bytes] = {}


def of_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A fault of the file as it is on disk."""
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def of_image(change: Callable) -> Callable[[Path], None]:
    """A fault of what the file holds: of the values, or of the affine."""

    def rewrite(path: Path) -> None:
        image = nib.load(path)
        data, affine = change(np.asarray(image.dataobj), image.affine.copy())
        nib.Nifti1Image(data, affine).to_filename(path)

    return rewrite


def flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def zero_tail(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def bomb(path: Path) -> None:
    """A header that promises 22 petabytes, in a file of a few hundred bytes."""
    header = nib.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 30_000, 100))
    header.set_data_dtype(np.float64)
    header["vox_offset"] = 352
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4 + 10_000)))


def bomb_within_its_ratio(path: Path) -> None:
    """A stream that goes on after the values that its header promises: a hundred times as much, of zeros."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100_000_000), 9))


def absurd_offset(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[108:112] = struct.pack("<f", float("inf"))
    path.write_bytes(gzip.compress(bytes(data)))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def short(path: Path) -> None:
    """Uncompressed and cut, under the same name: what a file is, its first bytes say."""
    path.write_bytes(gzip.decompress(path.read_bytes())[:-100])


def constant_in_the_brain(data, affine):
    return np.where(data == 0, 0, 3.25), affine


# Fault -> ways to inject it, each with what the reason has to say.
FAULTS = {
    "gz bit flip": {"": (of_bytes(flip_bit), "check|invalid|[Ee]rror|CRC")},
    "gz truncated": {"": (of_bytes(lambda data: data[: len(data) // 2]), "ends too early")},
    "missing trailer": {"": (of_bytes(lambda data: data[:-8]), "ends too early")},
    "zero-filled tail": {"": (of_bytes(zero_tail), "check|invalid|[Ee]rror|CRC|incorrect")},
    "empty file": {"": (of_bytes(lambda data: b""), "is empty")},
    "trailing garbage": {
        "bytes": (of_bytes(lambda data: data + b"garbage"), "header|incorrect|invalid|[Ee]rror"),
        "a second image": (of_bytes(lambda data: data + data), "more than the"),
    },
    "missing file": {"": (Path.unlink, "no such file")},
    "shape mismatch": {"": (of_image(lambda data, affine: (data[:, :-1], affine)), r"shape \(7, 7, 5\)")},
    "affine mismatch": {
        "shift": (of_image(lambda data, affine: (data, affine + 3 * np.outer(np.eye(4)[0], np.eye(4)[3]))), "affine"),
        "flip": (of_image(lambda data, affine: (data, affine * [[-1], [1], [1], [1]])), "affine"),
    },
    "not finite": {
        "NaN": (of_image(lambda data, affine: (np.full_like(data, np.nan), affine)), "no finite value"),
        "infinity": (of_image(lambda data, affine: (np.full_like(data, np.inf), affine)), "no finite value"),
    },
    "constant": {
        "5": (of_image(lambda data, affine: (np.full_like(data, 5), affine)), "is 5 in all"),
        "0": (of_image(lambda data, affine: (np.zeros_like(data), affine)), "is 0 in all"),
        "in the brain": (of_image(constant_in_the_brain), "is 3.25 in all 90 voxels"),
    },
    "header bomb": {
        "size": (bomb, "promises 21,600,000,000,000,352 bytes"),
        "stream": (bomb_within_its_ratio, "more than the"),
        "offset": (absurd_offset, "infinity"),
    },
    "unreadable": {
        "a folder": (folder_instead, "it is a folder"),
        "permission": (lambda path: path.chmod(0), "ermission"),
        "short .nii": (short, "promises 2,592 bytes"),
    },
}
CELLS = [
    pytest.param(change, reason, id=" - ".join(filter(None, (fault, way))))
    for fault, ways in FAULTS.items()
    for way, (change, reason) in ways.items()
]


def test_there_are_thirteen():
    assert len(FAULTS) == 13


@pytest.fixture
def undisturbed(cohort, tmp_path_factory) -> dict[str, bytes]:
    """Every map of an analysis of the other eleven, made once."""
    return UNDISTURBED or UNDISTURBED.update(of_others(cohort, tmp_path_factory.mktemp("undisturbed"))) or UNDISTURBED


def of_others(cohort, folder: Path) -> dict[str, bytes]:
    table = cohort.table.drop(index=FAULTY)
    paths = [path for index, path in enumerate(cohort.paths) if index != FAULTY]
    daskglm.convert(paths, str(folder / "all.zarr"), participants=table, mask=cohort.mask_img)
    return analysed(folder / "all.zarr", folder / "out")


@pytest.fixture
def faulty(request, cohort):
    """The cohort, of which a test spoils the fifth; for that of a permission root gives up its power to read all."""
    if os.geteuid() != 0 or "permission" not in request.node.name:
        yield cohort
        return
    effective, *others = before = capabilities()
    capabilities([effective & ~(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH), *others])
    try:
        # Capabilities are those of a thread and of the threads that it starts.
        with ThreadPoolExecutor(2) as pool, dask.config.set(pool=pool):
            yield cohort
    finally:
        capabilities(before)


def capabilities(wanted: list[int] | None = None) -> list[int]:
    """Those of this thread, set before: effective, permitted, inheritable, of 0 to 31 and again from 32 on."""
    header, words = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(*wanted or ())
    libc = ctypes.CDLL(None, use_errno=True)
    if (libc.capset if wanted else libc.capget)(header, words) != 0:
        raise OSError(ctypes.get_errno(), "capabilities")
    return list(words)


def analysed(store: Path, output: Path) -> dict[str, bytes]:
    """Name and content, to the bit, of all that an analysis of a store gives."""
    result = group_analysis(str(store), str(output), "~ age + sex", {"age": "age", "sex": "sex"})
    maps = {Path(path).name: nib.load(path) for path in result.files if path.endswith(".nii.gz")}
    found = {name: np.asarray(image.dataobj).tobytes() for name, image in maps.items()}
    assert len(found) == 12
    return found | {name: (output / name).read_bytes() for name in ("design.tsv", "peaks.tsv")}


def assert_no_leftovers(place: Path) -> None:
    assert [path for path in place.rglob("*") if "partial" in path.name] == []


@pytest.mark.parametrize("masked", [True, False], ids=["mask given", "mask found"])
@pytest.mark.parametrize(("change", "reason"), CELLS)
def test_stop(faulty, tmp_path, change, reason, masked):
    change(Path(faulty.paths[FAULTY]))
    mask = faulty.mask_img if masked else None
    store, output = str(tmp_path / "all.zarr"), tmp_path / "out"
    with pytest.raises(ImageError, match=rf"sub-05_stat-effect_statmap\.nii\.gz[\s\S]*({reason})"):
        daskglm.convert(faulty.paths, store, participants=faulty.table, mask=mask)
    with pytest.raises(StoreError, match=r"was not finished|no Zarr store"):
        daskglm.open_images(store)
    with pytest.raises(ImageError, match=rf"sub-05_stat-effect_statmap\.nii\.gz[\s\S]*({reason})"):
        group_analysis(faulty.paths, str(output), "~ age", {"age": "age"}, participants=faulty.table, mask=mask)
    assert [name for name in os.listdir(output) if not name.startswith(".")] == []
    assert_no_leftovers(tmp_path)


@pytest.mark.parametrize("masked", [True, False], ids=["mask given", "mask found"])
@pytest.mark.parametrize(("change", "reason"), CELLS)
def test_quarantine(faulty, tmp_path, undisturbed, change, reason, masked):
    change(Path(faulty.paths[FAULTY]))
    store = tmp_path / "all.zarr"
    result = daskglm.convert(
        faulty.paths, str(store), participants=faulty.table, mask=faulty.mask_img if masked else None,
        on_error="quarantine",
    )  # fmt: skip
    others = [name for name in faulty.names if name != "sub-05"]
    assert (result.written, list(result.quarantined)) == (others, ["sub-05"])
    listed = pd.read_csv(result.list_of_quarantined, sep="\t").to_dict("records")
    assert [(row["sample"], row["source"]) for row in listed] == [("sub-05", faulty.paths[FAULTY])]
    pattern = rf"sub-05_stat-effect_statmap\.nii\.gz[\s\S]*({reason})"
    for text in (result.quarantined["sub-05"], listed[0]["reason"]):
        assert re.search(pattern, text), text
    assert analysed(store, tmp_path / "out") == undisturbed
    assert_no_leftovers(tmp_path)


@pytest.mark.parametrize("fault", ["gz bit flip", "affine mismatch", "constant", "header bomb"])
def test_command(cohort, tmp_path, undisturbed, fault):
    change, reason = next(iter(FAULTS[fault].values()))
    change(Path(cohort.paths[FAULTY]))
    store = tmp_path / "all.zarr"
    given = ("convert", *cohort.paths, "--participants", cohort.table_path, "--output", store)
    stopped = CliRunner().invoke(main, list(map(str, given)))
    assert stopped.exit_code == 2
    assert re.search(rf"^daskglm: .*sub-05[\s\S]*({reason})", stopped.output, re.M), stopped.output
    went_on = CliRunner().invoke(main, [*map(str, given), "--on-error", "quarantine"])
    assert (went_on.exit_code, "sub-05" in went_on.output) == (0, True)
    assert (tmp_path / "all_quarantined.tsv").read_text().count("\n") == 2
    assert analysed(store, tmp_path / "out") == undisturbed
    assert_no_leftovers(tmp_path)


@pytest.mark.parametrize("way", ["size", "stream"])
@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
def test_memory_of_a_bomb(cohort, tmp_path, way, on_error):
    FAULTS["header bomb"][way][0](Path(cohort.paths[FAULTY]))
    daskglm.convert(cohort.paths[:2], str(tmp_path / "warm.zarr"))  # imports and caches are not the bomb's
    tracemalloc.start()
    try:
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), on_error=on_error)
    except DaskGLMError:
        assert on_error == "stop"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
def test_all_images_faulty(cohort, tmp_path, on_error):
    for path in cohort.paths:
        of_image(constant_in_the_brain)(Path(path))
    with pytest.raises(ImageError, match=r"sub-01[\s\S]*is 3\.25 in all 90"):
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=cohort.mask_img, on_error=on_error)
    with pytest.raises(StoreError, match=r"was not finished|no Zarr store|holds no sample"):
        daskglm.open_images(str(tmp_path / "all.zarr"))


def test_one_voxel_cannot_vary(cohort, tmp_path):
    mask = np.zeros(cohort.mask.shape, np.uint8)
    mask[2, 2, 2] = 1
    image = nib.Nifti1Image(mask, cohort.mask_img.affine)
    assert daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=image).written == cohort.names


def test_every_bit_of_a_header(cohort, tmp_path):
    """Whatever bit of a header is wrong, what follows is an error of ours that names the file, or a conversion."""
    path = Path(cohort.paths[FAULTY])
    whole = gzip.decompress(path.read_bytes())
    mask = cohort.mask_img
    from daskglm.graph.images import Preparation, read_prepared
    from daskglm.schema.space import VolumeSpace

    how = Preparation(VolumeSpace.from_image(nib.load(cohort.paths[0]), np.asarray(mask.dataobj) != 0))
    refused = accepted = 0
    for bit in range(352 * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            read_prepared(str(path), how)
        except ImageError as error:
            refused += "sub-05" in str(error)
        else:
            accepted += 1
    assert refused + accepted == 352 * 8
    assert refused > 200
