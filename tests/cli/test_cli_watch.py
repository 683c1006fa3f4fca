"""What a command tells while it runs: log, progress, dashboard, performance report, interruption; and keeps secret."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import psutil
import pytest
import xarray as xr
from click.testing import CliRunner
from test_cli import group, run

import daskglm
from daskglm.cli.main import main
from daskglm.errors import MissingDependencyError, OutputError, ParameterError
from daskglm.io.provenance import redact, run_record, stage

AWS_KEY, AWS_SECRET = "AKIA" + "IOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_the_log_tells_what_happens_and_when(cohort, tmp_path):
    log = tmp_path / "log.txt"
    assert group(cohort, tmp_path / "out", "--contrast", "age", "--log-file", log)[0] == 0
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ", line) for line in lines)
    text = log.read_text()
    assert f"INFO daskglm {daskglm.__version__} group, Python " in lines[0]
    assert "formula = '~ age + sex'" in text
    assert "images = " in text
    assert "4 more" in text  # of twelve paths
    assert re.search(r"INFO Reading images: 12 of 12 in ", text)
    assert re.search(r"INFO done in \d+\.\d{3} s$", lines[-1])
    status, _ = group(cohort, tmp_path / "other", "--contrast", "agee", "--log-file", log)
    assert status == 2
    added = log.read_text()[len(text) :]  # appended
    assert "ERROR failed after" in added
    assert "did you mean 'age'?" in added
    assert "Traceback (most recent call last):" in added
    assert "ContrastError" in added
    quiet = tmp_path / "quiet.txt"
    _, shown = group(cohort, tmp_path / "third", "--contrast", "age", "--log-file", quiet, "--quiet")
    assert "Reading images" not in shown


@pytest.mark.filterwarnings("default")
def test_warnings_are_in_the_log_and_on_the_screen(cohort, tmp_path, monkeypatch):
    import warnings

    from daskglm.models import group as module

    original = module.find_peaks

    def warn(maps):
        warnings.warn("the peaks are low", stacklevel=2)
        return original(maps)

    monkeypatch.setattr(module, "find_peaks", warn)
    log = tmp_path / "log.txt"
    status, text = group(cohort, tmp_path / "out", "--contrast", "age", "--log-file", log)
    assert status == 0
    assert text.count("daskglm: warning: the peaks are low") == 1
    assert "WARNING UserWarning: the peaks are low" in log.read_text()


def test_a_log_that_cannot_be_written_is_refused_before_work(cohort, tmp_path):
    for wrong in (tmp_path / "nowhere" / "log.txt", tmp_path, "s3://bucket/log.txt"):
        status, text = group(cohort, tmp_path / "out", "--contrast", "age", "--log-file", wrong)
        assert (status, "cannot write the log" in text) == (2, True)
    assert not (tmp_path / "out").exists()


SECRETS = {
    "user and password": ("https://anna:hunter2secret@host/x.nii.gz", "hunter2secret"),
    "signed": ("https://b.s3.amazonaws.com/k?X-Amz-Signature=fe5f80f77d5fa3beca&x=1", "fe5f80f77d5fa3beca"),
    "shared access": ("https://a.blob.core.windows.net/c?sv=2022&sig=Zm9vYmFyYmF6", "Zm9vYmFyYmF6"),
    "key id": (f"denied for {AWS_KEY}", AWS_KEY),
    "assigned": (f"aws_secret_access_key={AWS_SECRET}", AWS_SECRET),
    "in a dictionary": (f"{{'secret': '{AWS_SECRET}', 'anon': False}}", AWS_SECRET),
    "connection string": ("AccountName=a;AccountKey=c2VjcmV0a2V5;End", "c2VjcmV0a2V5"),
    "token": ("session_token: FwoGZXIvYXdzEBYaD", "FwoGZXIvYXdzEBYaD"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_left_out(kind):
    text, secret = SECRETS[kind]
    assert secret not in redact(f"cannot read {text}: see the log")
    assert redact(f"cannot read {text}: see the log").endswith("see the log")
    assert "***" in redact(text)


def test_values_of_secret_variables_are_left_out_wherever_they_are(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    monkeypatch.setenv("MY_TOKEN", "true")
    assert redact(f"Store(key {AWS_SECRET} in eu)") == "Store(key *** in eu)"
    assert redact("it is true") == "it is true"
    for harmless in ("~ age + C(site)", "s3://bucket/cohort.zarr", "name=faces - houses", "tcp://10.0.0.1:8786"):
        assert redact(harmless) == harmless


def test_no_secret_in_log_message_or_record(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", AWS_SECRET)
    monkeypatch.setattr("daskglm.models.group.find_peaks", lambda maps: {}[f"{AWS_KEY}:{AWS_SECRET}"])
    log = tmp_path / "log.txt"
    status, text = group(cohort, tmp_path / "out", "--contrast", "age", "--log-file", log)
    assert status == 1
    for shown in (text, log.read_text()):
        assert "KeyError" in shown
        assert AWS_SECRET not in shown
        assert AWS_KEY not in shown
    made = json.dumps(run_record(["group", "https://me:hunter2@host/x"], {}, {}, ["nowhere/password=hunter2"]))
    assert "hunter2" not in made


def test_a_record_has_stages_cluster_and_inputs(cohort):
    timings = {}
    for _ in range(2):
        with stage("pass", timings):
            time.sleep(0.02)
    with pytest.raises(ZeroDivisionError), stage("writing", timings):
        1 / 0  # noqa: B018
    made = run_record(["group"], timings, {"kind": "threads"}, cohort.paths[:1], {"sub-01": 0xAB})
    assert made["stages"]["pass"] >= 0.04
    assert set(made["stages"]) == {"pass", "writing"}
    assert made["cluster"] == {"kind": "threads"}
    assert made["inputs"][0]["bytes"] == os.path.getsize(cohort.paths[0])
    assert made["inputs"][0]["modified"] == os.stat(cohort.paths[0]).st_mtime_ns
    assert made["checksums"] == {"sub-01": "000000ab"}
    assert made["software"]["daskglm"] == daskglm.__version__
    json.dumps(made, allow_nan=False)


def test_every_result_says_how_it_was_made(cohort, tmp_path):
    store, model = tmp_path / "all.zarr", ("--formula", "~ age", "--contrast", "age")
    assert run("convert", *cohort.paths, "--participants", cohort.table_path, "--output", store)[0] == 0
    attributes = xr.open_zarr(store).attrs
    assert attributes["run"]["command"][:2] == ["convert", cohort.paths[0]]
    assert set(attributes["run"]["stages"]) == {"read headers", "find the mask", "convert"}
    assert attributes["software"]["daskglm"] == daskglm.__version__
    contents = {
        name: zlib.crc32(Path(path).read_bytes()) for name, path in zip(cohort.names, cohort.paths, strict=True)
    }
    for command, stages in (
        ("group", ["read headers", "read and sum images", "contrasts"]),
        ("permute", ["read headers", "rearrange"]),
    ):
        given = [command, store, *model, "--output", tmp_path / command]
        assert run(*given)[0] == 0
        made = json.loads((tmp_path / command / "provenance.json").read_text())
        assert made["command"] == list(map(str, given))
        assert list(made["stages"]) == stages
        assert sum(made["stages"].values()) <= made["seconds"]
        assert made["cluster"]["kind"] == "threads"
        assert made["inputs"] == [{"path": str(store)}]
        assert {name: int(value, 16) for name, value in made["checksums"].items()} == contents
    assert group(cohort, tmp_path / "files", "--contrast", "age")[0] == 0
    made = json.loads((tmp_path / "files" / "provenance.json").read_text())
    assert [item["bytes"] for item in made["inputs"]] == [os.path.getsize(path) for path in cohort.paths]


def test_reports_that_cannot_be_made_are_refused_before_work(cohort, tmp_path, monkeypatch):
    def refused(*more):
        with pytest.raises((ParameterError, MissingDependencyError, OutputError)) as caught:
            run("--debug", "group", *cohort.paths, "--contrast", "mean=intercept", "--output", tmp_path / "out", *more)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    report = tmp_path / "report.html"
    assert "add --cluster local" in refused("--performance-report", report)
    nowhere = tmp_path / "nowhere" / "report.html"
    assert "in a folder that exists" in refused("--performance-report", nowhere, "--cluster", "local")
    monkeypatch.setattr("daskglm.cli.options.find_spec", lambda name: None)
    assert "daskglm[dashboard]" in refused("--performance-report", report, "--cluster", "local")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_performance_report_names_the_tasks_and_the_link_is_shown_once(cohort, tmp_path):
    pytest.importorskip("bokeh")
    report = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["group", *cohort.paths, "--contrast", "mean=intercept", "--output",
                                     str(tmp_path / "out"), "--cluster", "local", "--performance-report",
                                     str(report)])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stderr.count("daskglm: dashboard at http://127.0.0.1:") == 1
    assert "Reading images: 0 of" in done.stderr
    assert "dashboard" not in done.stdout
    assert "sum-moments" in report.read_text()
    assert "solve" in report.read_text()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_local_cluster_listens_on_the_loopback_only():
    with daskglm.connect("local") as client:
        here = psutil.Process()
        listening = {
            connection.laddr.ip
            for process in [here, *here.children(recursive=True)]
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert "127.0.0.1" in listening
        assert listening <= {"127.0.0.1", "::1"}
        assert client.dashboard_link.startswith("http://127.0.0.1:")


def test_help_of_each_command_is_tidy():
    for command in ("convert", "group", "permute", "first-level"):
        text = CliRunner().invoke(main, [command, "--help"], terminal_width=80).output
        assert all(len(line) <= 80 for line in text.splitlines())
        for option in ("--cluster", "--performance-report", "--log-file", "--quiet"):
            assert text.count(option) >= 1, (command, option)


@pytest.mark.parametrize("cluster", [(), ("--cluster", "local")], ids=["threads", "cluster"])
def test_ctrl_c_stops_within_seconds_and_says_how_to_go_on(cohort, tmp_path, cluster):
    """The real command, in a process group that gets SIGINT as from a terminal."""
    output, log = tmp_path / "out", tmp_path / "log.txt"
    arguments = ["permute", *cohort.paths, "--participants", cohort.table_path, "--formula", "~ age + sex",
                 "--contrast", "age", "--n-perm", "20000000", "--output", str(output), "--log-file", str(log),
                 *cluster]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "daskglm.cli.main", *arguments], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True, text=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not (log.exists() and "Rearrangements: 0 of" in log.read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        took = time.monotonic() - started
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert took < (10 if cluster else 4), took
    last = errors.strip().splitlines()[-1]
    assert last.startswith("daskglm: interrupted; what is done is kept; to go on: "), errors
    assert f"daskglm resume {output}" in last
    assert "AllExit" not in errors
    assert "Traceback" not in errors
    assert "interrupted after" in log.read_text()
