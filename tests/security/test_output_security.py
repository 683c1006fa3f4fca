"""What is written: within its folder, with the user's modes, and no secret in it."""

import json
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

import daskglm
from daskglm.cli.main import main
from daskglm.errors import ContrastError, DaskGLMError, OutputError
from daskglm.io.receipts import remove_unit, unit
from daskglm.models.group import group_analysis
from daskglm.models.permutation_analysis import permutation_analysis
from daskglm.schema.names import bids_label

PASSWORD = "hunter2-not-to-be-seen"  # noqa: S105


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


# Output: within its folder.

NAMES = ["../../x", "/abs/x", "con", "..", "x/../../y", "a%00b", "年齢", "é", "a" * 400, "a b" * 200,
         "-rf", "x\n", "\\\\host\\x", "C:\\x", "~/x", "nul", ".hidden", "$HOME"]  # fmt: skip


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_contrasts(cohort, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    output = tmp_path / "deep" / "out"
    try:
        result = group_analysis(
            cohort.paths, str(output), "~ age", {name: "age"}, participants=cohort.table, mask=cohort.mask_img
        )
    except ContrastError:
        files = []  # refused by name, before anything is read
    else:
        files = [Path(path) for path in result.files]
        assert len(files) == 11
    for path in files:
        assert path.parent == output
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", path.name)
        assert len(path.name) < 200
    after = tree(tmp_path)
    assert {key: after.get(key) for key in before} == before
    assert all(key in before or key == "deep" or key.startswith("deep/out") for key in after)


@pytest.mark.parametrize("name", NAMES)
def test_labels(name):
    try:
        label = bids_label(name)
    except ContrastError:
        return
    assert re.fullmatch(r"[A-Za-z0-9]{1,150}", label)


def outside(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "x.json").write_text("precious")
    (victim / "x.nii.gz").write_text("precious")
    (victim / "data.zarr").mkdir()
    (victim / "data.zarr" / "zarr.json").write_text("{}")
    return victim


def test_provenance_names_files_elsewhere(cohort, tmp_path):
    victim, output = outside(tmp_path), tmp_path / "out"
    before = tree(victim)
    arguments = (cohort.paths, str(output), "~ age", {"age": "age"})
    options = {"participants": cohort.table, "mask": cohort.mask_img}
    files = group_analysis(*arguments, **options).files
    hostile = ["../victim/x.json", str(victim / "x.nii.gz"), "../victim", "../victim/data.zarr", "..", ".", "", "/", 5]
    path = output / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": hostile}))
    # Names of results that lead elsewhere: written to, they would replace what they point to.
    (output / Path(files[0]).name).unlink()
    (output / Path(files[0]).name).symlink_to(victim / "x.nii.gz")
    try:
        group_analysis(*arguments, **options, overwrite=True)
    except DaskGLMError:
        pass
    else:
        assert not (output / Path(files[0]).name).is_symlink()
    assert tree(victim) == before


@pytest.mark.parametrize(
    "name",
    ["../victim/x.json", "../victim", "../victim/data.zarr", "{victim}/x.nii.gz", "..", "link.zarr", "link.nii.gz"],
)
def test_receipts_name_files_elsewhere(tmp_path, name):
    victim, output = outside(tmp_path), tmp_path / "out"
    before = tree(victim)
    output.mkdir()
    receipt = output / "a_glm.json"
    receipt.write_text(json.dumps({"key": "k", "files": [name.format(victim=victim)], "complete": True}))
    (output / "link.zarr").symlink_to(victim / "data.zarr")
    (output / "link.nii.gz").symlink_to(victim / "x.nii.gz")
    with suppress(OutputError):
        remove_unit(str(receipt))
    with suppress(OutputError), unit(str(receipt), {"key": "k"}, [name.format(victim=victim)]):
        pass
    assert tree(victim) == before


def test_store_does_not_replace_what_it_points_to(cohort, tmp_path):
    victim = outside(tmp_path)
    before = tree(victim)
    (tmp_path / "all.zarr").symlink_to(victim)
    with pytest.raises(OutputError, match="no store"):
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=cohort.mask_img, overwrite=True)
    assert tree(victim) == before


# Secrets.


@pytest.fixture
def secrets(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, PASSWORD)


def test_secrets_are_in_no_file(cohort, tmp_path, secrets):
    store, log = tmp_path / "all.zarr", tmp_path / "log.txt"
    model = ("--participants", cohort.table_path, "--formula", "~ age", "--contrast", "age")
    results = [run("convert", *cohort.paths, "--output", store)]
    results.append(run("group", store, *model, "--output", tmp_path / "group", "--log-file", log))
    results.append(run("permute", store, *model, "--n-perm", 20, "--output", tmp_path / "permuted"))
    assert [status for status, _ in results] == [0, 0, 0], results
    assert not any(PASSWORD in text for _, text in results)
    told = [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert told == []


@pytest.mark.parametrize("scheme", ["s3", "https", "gs", "ftp"])
def test_secrets_of_urls(cohort, tmp_path, scheme):
    url = f"{scheme}://user:{PASSWORD}@127.0.0.1:1/bucket/sub-01.nii.gz"
    log = tmp_path / "log.txt"
    common = ("--participants", cohort.table_path, "--contrast", "intercept")
    for arguments in (
        ("convert", url, "--output", tmp_path / "all.zarr"),
        ("convert", *cohort.paths, "--output", url.replace("nii.gz", "zarr")),
        ("group", url, *common, "--output", tmp_path / "a", "--log-file", log),
        ("group", *cohort.paths, *common, "--output", url),
        ("group", *cohort.paths, *common, "--mask", url, "--output", tmp_path / "b"),
        ("info", url),
    ):
        status, told = run(*arguments)
        assert (status, PASSWORD in told) == (2, False), told
    left = [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert left == []
    assert not any(PASSWORD in path.name for path in tmp_path.rglob("*"))


# Temporary files.


def test_temporary_files_and_modes(cohort, tmp_path, monkeypatch):
    """Nothing is put where others look; what is written has the modes that the user chose; nothing is left."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made = []
    real = os.mkdir
    monkeypatch.setattr(
        os, "mkdir", lambda path, mode=0o777, **more: (made.append((str(path), mode)), real(path, mode, **more))[1]
    )
    before = os.umask(0o027)
    try:
        store = tmp_path / "all.zarr"
        daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img, participants=cohort.table)
        group_analysis(str(store), str(tmp_path / "group"), "~ age", {"age": "age"})
        permutation_analysis(str(store), str(tmp_path / "permuted"), "~ age", {"age": "age"}, n_perm=20)
    finally:
        os.umask(before)
        tempfile.tempdir = None
    assert list(shared.iterdir()) == []
    assert [mode for path, mode in made if path.startswith(str(shared)) and mode != 0o700] == []
    for folder in (store, tmp_path / "group", tmp_path / "permuted"):
        for path in [folder, *folder.rglob("*")]:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o027 == 0, (path, oct(mode))
            assert path.name.startswith(".") or mode & 0o640 == 0o640, (path, oct(mode))
