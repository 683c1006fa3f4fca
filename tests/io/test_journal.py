"""The record of what runs on an output, and its lock."""

import errno
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from daskglm.errors import OutputError
from daskglm.io import files, journal, provenance
from daskglm.io.files import PARTIAL
from daskglm.io.journal import COMMAND, STALE, load_record, load_records, running
from daskglm.io.locks import refusal
from daskglm.io.provenance import logged_to
from daskglm.io.results import PROVENANCE, prepare_output, sweep, write_results
from daskglm.models.group import group_analysis
from daskglm.models.run_status import run_status

DOCUMENTS = {"a.json": [1], "b.json": [2]}


def record_of(output):
    return json.loads((output / ".daskglm" / "run.json").read_text())


def put(output, **changes):
    """Change the record of a run."""
    path = output / ".daskglm" / "run.json"
    path.write_text(json.dumps({**record_of(output), **changes}))


def ended_process():
    """Id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_how_to_go_on_is_said_for_a_shell(tmp_path):
    output = str(tmp_path / "my results; ls")
    with pytest.raises(KeyboardInterrupt) as interrupted, running(output, "group"):
        raise KeyboardInterrupt
    assert [shlex.split(note) for note in interrupted.value.__notes__] == [["daskglm", "resume", output]]


def test_a_run_is_recorded_from_its_beginning_to_its_end(tmp_path):
    output, token = tmp_path / "out", COMMAND.set(("group", "x"))
    before = time.time()
    with running(str(output), "group") as run:
        assert (record_of(output)["state"], load_record(str(output)).now) == ("running", "running")
        run.begin(3, lambda: 2)
        assert (record_of(output)["done"], record_of(output)["total"]) == (2, 3)
    COMMAND.reset(token)
    held = record_of(output)
    assert (held["state"], held["done"], held["command"], held["folder"]) == (
        "complete",
        3,
        ["group", "x"],
        os.getcwd(),
    )
    assert held["process"] == os.getpid()
    assert before <= held["started"] <= held["updated"] <= time.time()
    assert load_records(str(output)) == [load_record(str(output))]


def test_wrong_input_leaves_the_output_as_it_was(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="input"), running(str(output), "group"):
        raise ValueError("wrong input")
    assert os.listdir(output) == []
    with running(str(output), "group") as run:
        run.begin(1)
    before = record_of(output)
    with pytest.raises(ValueError, match="input"), running(str(output), "group"):
        raise ValueError("wrong input")
    assert record_of(output) == before


def test_failures_and_interruptions_are_recorded(tmp_path):
    output = tmp_path / "out"

    def fail_late():
        with running(str(output), "group") as run:
            run.begin(5, lambda: 4)
            raise ValueError("too\nlate")

    with pytest.raises(ValueError, match="late"):
        fail_late()
    assert [record_of(output)[name] for name in ("state", "message", "done")] == ["failed", "too late", 4]
    with pytest.raises(KeyboardInterrupt) as caught, running(str(output), "group"):
        raise KeyboardInterrupt
    assert record_of(output)["state"] == "interrupted"
    assert caught.value.__notes__ == [f"daskglm resume {output}"]


def test_a_second_run_is_refused_and_told_who_writes(tmp_path):
    output = str(tmp_path / "out")
    with running(output, "group"):
        with pytest.raises(OutputError, match=f"process {os.getpid()} on .*, since 20"), running(output, "permute"):
            pass
        assert load_record(output).kind == "group"


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"born": 1.0}, "interrupted"),  # another process has the number now
        ({"process": None}, "interrupted"),
        ({"host": "elsewhere"}, "running"),
        ({"host": "elsewhere", "updated": time.time() - STALE - 1}, "interrupted"),
        ({"state": "failed", "process": None}, "failed"),
    ],
)
def test_a_run_whose_process_is_gone_was_interrupted(tmp_path, changes, state):
    with running(str(tmp_path), "group"):
        record = load_record(str(tmp_path))
        changes = {**changes, "process": ended_process()} if "process" in changes else changes
        assert replace(record, **{"state": "running", **changes}).now == state
    # Of this process, but over: the end could not be written.
    assert changes or replace(record, state="running").now == "interrupted"


def test_a_run_on_another_machine_is_respected_while_it_is_heard_of(tmp_path):
    """There the lock may not tell: some network file systems have none."""
    output = str(tmp_path)
    with running(output, "group") as run:
        run.begin(1)
    put(tmp_path, state="running", host="elsewhere", process=7, updated=time.time())
    with pytest.raises(OutputError, match=r"process 7 on elsewhere, .* last seen"), running(output, "group"):
        pass
    put(tmp_path, updated=time.time() - STALE - 1)
    with running(output, "group"):
        pass
    assert record_of(tmp_path)["state"] == "complete"


def test_runs_side_by_side_have_records_of_their_own(tmp_path):
    output = str(tmp_path)
    with running(output, "first-level", name="run-a", shared=True) as one:
        one.begin(1)
        with running(output, "first-level", name="run-b", shared=True) as other:
            other.begin(1)
        with pytest.raises(OutputError, match="another writes"), running(output, "first-level"):
            pass
    assert [asdict(record)["state"] for record in load_records(output)] == ["complete", "complete"]


def test_a_damaged_record_is_none(tmp_path):
    (tmp_path / ".daskglm").mkdir()
    for text in ("", "[]", "{}", '{"id": 1}'):
        (tmp_path / ".daskglm" / "run.json").write_text(text)
        assert load_record(str(tmp_path)) is None
        assert load_records(str(tmp_path)) == []


def test_a_store_has_its_record_beside_it_until_it_is_whole(tmp_path):
    with running(str(tmp_path / "x.zarr"), "convert") as run:
        run.begin(1)
        assert sorted(os.listdir(tmp_path / "x.zarr.daskglm")) == ["gate", "lock", "run.json"]
    assert os.listdir(tmp_path) == []


def test_many_at_once_one_at_a_time(tmp_path):
    """However their beginnings and ends fall together, also where the files of the lock are removed at the end."""
    inside, most, done = [], [], []

    def attempt():
        while len(done) < 12:
            try:
                with running(str(tmp_path / "x.zarr"), "convert") as run:
                    inside.append(1)
                    most.append(len(inside))
                    run.begin(1)
                    inside.pop()
                    done.append(1)
            except OutputError:
                pass

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) >= 12
    assert max(most) == 1
    assert os.listdir(tmp_path) == []


def test_an_interrupted_writing_is_not_taken_for_files_of_others(tmp_path, monkeypatch):
    from daskglm.io import results

    output, replaced = str(tmp_path), os.replace

    def end(source, target):
        if os.path.basename(target) == "b.json" and os.path.dirname(target) == output:
            raise KeyboardInterrupt
        replaced(source, target)

    for _ in range(2):
        with monkeypatch.context() as broken:
            broken.setattr(results.os, "replace", end)
            with pytest.raises(KeyboardInterrupt):
                write_results(output, {}, {}, DOCUMENTS, {})
        assert "a.json" in os.listdir(output)
        assert PROVENANCE not in os.listdir(output)
        prepare_output(output)
        assert not set(os.listdir(output)) - {".daskglm"}
    write_results(output, {}, {}, DOCUMENTS, {})
    with pytest.raises(OutputError, match="already holds results"):
        prepare_output(output)
    (tmp_path / PROVENANCE).unlink()
    with pytest.raises(OutputError, match="already holds other files"):
        prepare_output(output, overwrite=True)


@pytest.mark.parametrize("name", [*DOCUMENTS, PROVENANCE])
def test_files_of_others_that_came_meanwhile_are_not_replaced(tmp_path, name):
    prepare_output(str(tmp_path))
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}, which daskglm did not write"):
        write_results(str(tmp_path), {}, {}, DOCUMENTS, {})
    assert (tmp_path / name).read_text() == "mine"


def test_numbers_that_json_has_not_are_never_written(tmp_path):
    """NaN and Infinity are none of RFC 8259: other readers of JSON would refuse the file."""
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_results(str(tmp_path), {}, {}, {"a.json": {"t": number}}, {})
    assert not set(os.listdir(tmp_path)) - {".daskglm"}


def test_who_runs_elsewhere_was_last_seen(tmp_path):
    with running(str(tmp_path), "group"):
        put(tmp_path, host="elsewhere", process=7, updated=time.time() - 100)
        record = load_record(str(tmp_path))
        assert re.search(r"process 7 on elsewhere, since .*, last seen 10[0-9] s ago$", record.who)
        assert not record.is_mine
        put(tmp_path, process=os.getpid(), host=socket.gethostname())
        assert "last seen" not in load_record(str(tmp_path)).who
        assert load_record(str(tmp_path)).is_mine


def test_a_run_elsewhere_is_given_up_after_two_minutes(tmp_path, monkeypatch):
    with running(str(tmp_path), "group"):
        put(tmp_path, host="elsewhere", updated=1000.0)
        record = load_record(str(tmp_path))
        for now, state in ((1119.5, "running"), (1120.5, "interrupted")):
            monkeypatch.setattr(journal.time, "time", lambda now=now: now)
            assert record.now == state
        monkeypatch.undo()


def test_secrets_in_the_environment_have_eight_characters(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "seventy")
    assert provenance.redact("is seventy") == "is seventy"
    monkeypatch.setenv("MY_TOKEN", "eighteen")
    assert provenance.redact("is eighteen") == "is ***"


def test_who_holds_a_lock_is_named_where_that_is_known():
    assert "another writes to out (process 7 on host); wait" in refusal("out", "process 7 on host")
    assert "another writes to out (unknown process); wait" in refusal("out", "")


def test_file_systems_without_locks_give_all_of_them(tmp_path, monkeypatch):
    import fcntl

    def refuse(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with running(str(tmp_path / "out"), "group"):
        pass
    assert load_record(str(tmp_path / "out")).state == "complete"
    monkeypatch.setattr(fcntl, "flock", lambda *given: (_ for _ in ()).throw(BlockingIOError()))
    with pytest.raises(OutputError, match="one analysis writes to an output at a time"), running(str(tmp_path), "x"):
        pass


@pytest.mark.parametrize(
    ("end", "told"), [(None, "done in"), (KeyboardInterrupt(), "interrupted after"), (ValueError("x"), "failed after")],
    ids=["done", "by hand", "failed"],
)  # fmt: skip
def test_the_log_tells_how_long_it_took(tmp_path, monkeypatch, end, told):
    clock, log = iter([1000.0, 1001.5]), tmp_path / "log.txt"
    monkeypatch.setattr(provenance, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with suppress(KeyboardInterrupt, ValueError), logged_to(str(log), "group", {}):
        if end is not None:
            raise end
    assert f"{told} 1.500 s" in log.read_text()
    assert ("Traceback" in log.read_text()) == isinstance(end, ValueError)


def test_what_a_killed_process_was_writing_is_swept(tmp_path):
    (tmp_path / f"{PARTIAL}1-x").mkdir()
    (tmp_path / f"{PARTIAL}1-x" / "map").touch()
    (tmp_path / "mine").touch()
    (tmp_path / ".partial-thesis").touch()
    (tmp_path / ".daskglm" / "moments" / "k").mkdir(parents=True)
    (tmp_path / ".daskglm" / "moments" / "k" / f"{PARTIAL}1-a.npz").touch()
    (tmp_path / ".daskglm" / "moments" / "k" / "a.npz").touch()
    sweep(str(tmp_path), alone=False)
    assert (tmp_path / f"{PARTIAL}1-x").exists()
    sweep(str(tmp_path))
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == [".daskglm", ".partial-thesis", "a.npz", "k", "mine", "moments"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_results_behind_a_url_are_those_on_disk(cohort, bucket, tmp_path):
    outputs, model = (f"{bucket.url}/out", str(tmp_path / "out")), {"participants": cohort.table}
    for output in outputs:
        group_analysis(cohort.paths, output, "~ age", {"age": "age"}, **model)
        assert run_status(output).state == "complete"
        with pytest.raises(OutputError, match="already holds results"):
            group_analysis(cohort.paths, output, "~ age", {"age": "age"}, **model)
    images = [name for name in os.listdir(outputs[1]) if name.endswith(".gz")]
    assert len(images) == 7
    for name in images:
        assert files.read_bytes(f"{outputs[0]}/{name}") == (tmp_path / "out" / name).read_bytes()
    group_analysis(cohort.paths, outputs[0], "~ 1", {"mean": "intercept"}, overwrite=True, **model)
    assert not [name for name in files.list_names(outputs[0]) if "age" in name]
    with running(outputs[0], "group"), pytest.raises(OutputError, match=f"process {os.getpid()} on"):
        group_analysis(cohort.paths, outputs[0], "~ age", {"age": "age"}, overwrite=True, **model)
    assert files.list_names(f"{outputs[0]}/.daskglm") == ["run.json"]


def test_warnings_of_a_run_are_kept_once_without_secrets(tmp_path):
    with pytest.warns() as told, running(str(tmp_path / "out"), "group") as run:  # noqa: PT031
        warnings.warn("two of 30 images were left out", UserWarning, stacklevel=1)
        warnings.warn("two of 30 images were left out", UserWarning, stacklevel=1)
        warnings.warn("https://me:secret@host/a is slow", RuntimeWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert len(told) == 4
    assert run.warnings[0] == "two of 30 images were left out"
    assert len(run.warnings) == 2
    assert "secret" not in run.warnings[1]
    shown = warnings.showwarning
    with running(str(tmp_path / "other"), "group"):
        pass
    assert warnings.showwarning is shown
