"""Units of work and their receipts."""

import json

import pandas as pd
import pytest

from daskglm.errors import OutputError
from daskglm.io.receipts import load_receipt, read_receipt, remove_unit, unit, write_unit

TABLE = {"t.tsv": pd.DataFrame({"x": [1.5, None]})}


def test_a_unit_is_read_by_its_key_and_whole_only(tmp_path):
    path = str(tmp_path / "below" / "r.json")
    assert read_receipt(path, "k") is None
    write_unit(path, {}, TABLE, {"key": "k", "more": 1})
    assert read_receipt(path, "other") is None
    assert read_receipt(path, "k") == {"key": "k", "more": 1, "files": {"t.tsv": 10}, "complete": True}
    (tmp_path / "below" / "t.tsv").write_text("x")
    assert read_receipt(path, "k") is None
    (tmp_path / "below" / "t.tsv").unlink()
    assert read_receipt(path, "k") is None


def test_files_are_named_before_they_are_written(tmp_path):
    path = str(tmp_path / "r.json")
    writing = unit(path, {"key": "k"}, ["a", "b.zarr"])
    writing.__enter__()
    assert load_receipt(path) == {"key": "k", "files": {"a": None, "b.zarr": None}, "complete": False}
    (tmp_path / "a").touch()
    (tmp_path / "b.zarr").mkdir()
    interrupted = KeyboardInterrupt()
    assert not writing.__exit__(KeyboardInterrupt, interrupted, None)
    assert read_receipt(path, "k") is None
    remove_unit(path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_removed(tmp_path):
    folder = tmp_path / "out"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside").touch()
    for files in (["../outside", "folder", "", "..", "absent"], 3, "outside", None):
        (folder / "r.json").write_text(json.dumps({"files": files, "complete": True}))
        remove_unit(str(folder / "r.json"))
        assert [path.name for path in folder.iterdir()] == ["folder"]
    assert (tmp_path / "outside").exists()
    remove_unit(str(folder / "r.json"))


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="another output"):
        write_unit(str(tmp_path / "file" / "r.json"), {}, TABLE, {})
