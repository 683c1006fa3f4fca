"""Text from users, tables and file names: it never runs, never leaves the output folder, never tells a secret."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_output_security import outside, run, tree

import daskglm
from daskglm.cluster import connect, read_configuration
from daskglm.design.contrasts import contrast_matrix
from daskglm.design.formula import design_from_formula
from daskglm.errors import ContrastError, DaskGLMError, DesignError, OutputError
from daskglm.io.bids import find_runs
from daskglm.models.group import group_analysis
from daskglm.schema.names import subject_id


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that code run by a text would make; relative paths are in its folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder / "executed"
    assert list(folder.iterdir()) == []


# Contrasts: a parser of its own.

CONTRASTS = [
    "a.to_csv('executed')", "@pd.io.common.os.system('touch executed')", "__import__('os').system('touch executed')",
    "a.__class__.__mro__", "(lambda: open('executed', 'w'))()", "[x for x in (1,)]", "a if a else b", "a[0]", "f'{a}'",
    "a; import os", "a\nimport os", "open('executed','w')", "a := 1", "a == b", "a @ b", "a ** 2", "a ^ b", "~a",
    "not a",
    "a < b", "{a: b}", "*a", "a and b", "print(a)", "a.real", "1j * a", "'a' * 3", "None * a", "True * a", "...",
    "`a` + `__import__('os').system('touch executed')`", "a # b", "yield a", "await a", "a,,b", "()", "",
]  # fmt: skip


@pytest.mark.parametrize("text", CONTRASTS)
def test_contrasts_run_nothing(marker, text):
    with pytest.raises(ContrastError):
        contrast_matrix(text, ["a", "b", "c"])


@pytest.mark.parametrize("text", CONTRASTS[:3])
def test_contrasts_run_nothing_by_command(cohort, tmp_path, marker, text):
    given = ("--participants", cohort.table_path, "--formula", "~ age", "--output", tmp_path / "out")
    for command in (("group",), ("permute", "--n-perm", "10")):
        status, told = run(*command, *cohort.paths, *given, "--contrast", f"x={text}")
        assert (status, "contrast" in told) == (2, True)


@pytest.mark.parametrize(
    "text",
    ["9**9**9**9 * a", "(" * 5000 + "a" + ")" * 5000, "a" + " + a" * 2400, "-" * 9000 + "a", "1e308 * 1e308 * a",
     "a * " + "9" * 9000, "a" * 20_000, "`" * 9000, "a," * 4000 + "a", "1e999999999 * a", "a / 1e-400"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_contrasts_end(text):
    started = time.perf_counter()
    told = ""
    try:
        matrix = contrast_matrix(text, ["a", "b", "c"])
    except ContrastError as error:
        told, matrix = str(error), np.ones(1)
    assert np.isfinite(matrix).all()
    assert len(told) < 2000
    assert time.perf_counter() - started < 5


# Formulas: an allow-list before formulaic, which runs Python.

FORMULAS = [
    "~ {eval(\"__import__('os').system('touch executed')\")}", "~ {__import__('os').system('touch executed')}",
    "~ `age`.to_csv('executed')", "~ age.to_csv('executed')", "~ age.real", "~ (lambda x: x)(age)", "~ age[0]",
    "~ eval('1')", "~ I(__import__('os').system('touch executed'))", "~ C(age, contr.treatment(eval('1')))",
    "~ Q('age')",
    "~ 'age'", '~ "age"', "~ I(age.__class__)", "~ open('executed', 'w')", "~ np.log(age)", "~ age | sex", "~ age; sex",
    "~ age @ sex", "~ f(age)", "~ I({age})", "~ poly(age, degree=__import__('os'))", "~ lag(age)", "age ~ sex", "~ .",
    "~ C(age, levels=[1])", "~ `{open(\"executed\", \"w\")}`", "~ hashed(age)", "~ age\nimport os", "~ [age ~ sex]",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_run_nothing(marker, text):
    table = pd.DataFrame({"age": [1.0, 2.0, 3.5, 7.0], "sex": list("FMFM")})
    with pytest.raises(DesignError):
        design_from_formula(text, table)


@pytest.mark.parametrize(
    "text", ["{open('executed','w')}", "__import__('os').system('touch executed')", "a'b\"c{d}", "I"]
)
def test_names_of_columns_run_nothing(marker, text):
    design = design_from_formula(f"~ `{text}`", pd.DataFrame({text: [1.0, 2.0, 4.0]}))
    assert design.columns.tolist() == ["intercept", text]
    levels = pd.DataFrame({"site": [text, "b", text, "b"]})
    assert design_from_formula("~ C(site)", levels).shape == (4, 2)


@pytest.mark.parametrize(
    "text", ["~ bs(age, df=1000000000)", "~ age**9**9**9", "~ (age + sex)**1000000", "~ poly(age, 99999999)",
             "~ " + "(" * 6000 + "age" + ")" * 6000, "~ " + "age + " * 3000 + "age"],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_formulas_end(text):
    started = time.perf_counter()
    with pytest.raises(DesignError):
        design_from_formula(text, pd.DataFrame({"age": [1.0, 2.0, 3.5, 7.0], "sex": list("FMFM")}))
    assert time.perf_counter() - started < 5


# Cluster files: data, not code.


@pytest.mark.parametrize(
    "text",
    ["!!python/object/apply:os.system ['touch executed']", "kind: !!python/object/apply:os.system ['touch executed']",
     "kind: local\noptions: !!python/object/new:subprocess.Popen [[touch, executed]]",
     "kind: local\noptions: {n: !!python/name:os.system }"],
)  # fmt: skip
def test_cluster_files_run_nothing(tmp_path, marker, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(DaskGLMError, match=r"cannot read .*cluster\.yaml"):
        read_configuration(str(path))


JOB = "kind: slurm\nscale: 1\noptions:\n  cores: 1\n  memory: 1GB\n"


@pytest.mark.parametrize(
    "line",
    [r'queue: "debug\ntouch executed"', r'queue: "debug\rtouch executed"', r'account: "me\u2028touch executed"',
     r'job_extra_directives: ["--x\ntouch executed"]', r'job_script_prologue: ["module load x\ntouch executed"]',
     r'walltime: "00:10:00\ntouch executed"', r'log_directory: "x\ntouch executed"'],
)  # fmt: skip
def test_job_scripts_have_no_line_of_ours(tmp_path, marker, line):
    pytest.importorskip("dask_jobqueue")
    path = tmp_path / "slurm.yaml"
    path.write_text(f"{JOB}  {line}\n")
    with pytest.raises(DaskGLMError, match="line break"):
        read_configuration(str(path))


def test_job_scripts_quote_the_environment(tmp_path, marker):
    pytest.importorskip("dask_jobqueue")
    from daskglm.cluster.jobs import job_options

    path = tmp_path / "slurm.yaml"
    path.write_text(f"{JOB}environment:\n  HOSTILE: \"$(touch executed) `touch executed`'; touch executed; '\"\n")
    lines = job_options(read_configuration(str(path)))["job_script_prologue"]
    (line,) = [line for line in lines if "HOSTILE" in line]
    assert subprocess.run(["bash", "-c", line], check=True).returncode == 0
    path.write_text(f"{JOB}environment:\n  'X=1; touch executed; Y': '1'\n")
    with pytest.raises(DaskGLMError, match="not the name of a variable"):
        read_configuration(str(path))


def test_local_cluster_listens_on_loopback_only():
    import psutil

    with connect("local") as client:
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert client.scheduler.address.startswith(("tcp://127.0.0.1:", "tls://127.0.0.1:"))
        assert "//127.0.0.1:" in client.dashboard_link
        folders = set(client.run(lambda dask_worker: dask_worker.local_directory).values())
    assert listening
    assert listening <= {"127.0.0.1", "::1"}
    # What workers spill is pickled: nobody else may have made the folder that it is in.
    assert not any(Path(tempfile.gettempdir(), "dask-scratch-space") in Path(folder).parents for folder in folders)


@pytest.mark.parametrize("options", ["host: 0.0.0.0", "dashboard_address: ':0'"])
def test_open_cluster_warns(tmp_path, options):
    path = tmp_path / "open.yaml"
    path.write_text(f"kind: local\nscale: 1\noptions: {{{options}}}\n")
    with pytest.warns(UserWarning, match="beyond this machine without TLS"), connect(str(path)):
        pass


# HTML: names are shown as they are.

PAYLOAD = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_names_in_html(cohort, tmp_path):
    table = cohort.table.rename(columns={"age": PAYLOAD})
    result = group_analysis(
        cohort.paths, str(tmp_path / "out"), f"~ `{PAYLOAD}`", {PAYLOAD: f"`{PAYLOAD}`"}, participants=table,
        mask=cohort.mask_img,
    )  # fmt: skip
    for shown in (result.maps, result.fit, result.design, result.peaks):
        html = shown._repr_html_()
        assert "&lt;script&gt;" in html or PAYLOAD not in str(shown)
        assert "<script>alert" not in html
        assert "<img src=x" not in html
    pages = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".html", ".svg", ".htm")]
    assert not any(b"<script>alert" in path.read_bytes() or b"<img src=x" in path.read_bytes() for path in pages)


# BIDS entities: letters and digits.


@pytest.fixture
def dataset(tmp_path):
    """One run of one good subject."""
    root = tmp_path / "bids"
    func = root / "derivatives" / "prep" / "sub-01" / "func"
    func.mkdir(parents=True)
    (root / "sub-01" / "func").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2, 3)), np.eye(4)), func / "sub-01_task-x_space-T1w_desc-preproc_bold.nii")
    return root


HOSTILE = ["x;rm", "①", "..", "01\n", "$(id)", "a b", "²", "x'y", "-", "é"]


@pytest.mark.parametrize("text", HOSTILE)
def test_entities_of_files(dataset, text):
    good = dataset / "derivatives" / "prep" / "sub-01" / "func" / "sub-01_task-x_space-T1w_desc-preproc_bold.nii"
    folder = dataset / "derivatives" / "prep" / f"sub-{text}" / "func"
    folder.mkdir(parents=True)
    names = {f"sub-{text}_task-x": folder, f"sub-01_task-x{text}": good.parent,
             f"sub-01_task-x_run-{text}": good.parent, f"sub-01_task-x_ses-{text}": good.parent}  # fmt: skip
    for name, place in names.items():
        shutil.copy(good, place / f"{name}_space-T1w_desc-preproc_bold.nii")
    with pytest.warns(UserWarning, match="not named|are named"):
        runs = find_runs(str(dataset), "x", "T1w")
    assert [run.bold for run in runs] == [str(good)]


@pytest.mark.parametrize("option", ["--participant-label", "--task", "--space", "--filter"])
@pytest.mark.parametrize("text", [*HOSTILE, "../..", "/etc", ""])
def test_entities_of_options(dataset, tmp_path, option, text):
    output = tmp_path / "out"
    value = f"run={text}x" if option == "--filter" else text or "none"
    status, told = run("first-level", dataset, output, "--contrast", "a", option, value)
    assert status == 2, told
    assert not output.exists() or [path for path in output.rglob("*") if path.suffix in (".nii.gz", ".gz")] == []
    assert run("first-level", dataset, output, "--contrast", "a", "--filter", f"run={text}①")[0] == 2


@pytest.mark.parametrize("text", ["../../x", "x;rm", "sub-01\n../x", "①"])
def test_ids_of_tables(cohort, tmp_path, text):
    table = cohort.table.assign(participant_id=[text, *cohort.names[1:]])
    with pytest.raises(DesignError, match="no row: sub-01"):
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), participants=table)


def test_subject_of_a_path():
    assert subject_id("maps/sub-01\n") is None
    assert subject_id("maps/sub-①_x.nii.gz") is None
    assert subject_id("maps/sub-01;rm_x.nii.gz") is None
    assert subject_id("maps/sub-01_x.nii.gz") == "sub-01"


@pytest.mark.parametrize("place", ["sub-01", "sub-01/func", "group", "figures"])
def test_folders_of_results_lead_nowhere_else(dataset, tmp_path, place):
    victim, output = outside(tmp_path), tmp_path / "out"
    before = tree(victim)
    (output / place).parent.mkdir(parents=True)
    (output / place).symlink_to(victim)
    (dataset / "sub-01" / "func" / "sub-01_task-x_events.tsv").write_text("onset\tduration\ttrial_type\n1\t1\ta\n")
    with pytest.raises(OutputError, match=rf"{place}\S* leads to .*victim"):
        daskglm.first_level_analysis(str(dataset), str(output), {"a": "a"}, t_r=2.0)
    assert tree(victim) == before
