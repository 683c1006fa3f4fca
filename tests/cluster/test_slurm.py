"""SLURM for real: Debian's, one node on this machine, started by slurm.sh beside this file."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from distributed import WorkerPlugin
from slurm_cluster import jobs, slurm, slurm_file

import daskglm
from daskglm.cluster import ClusterError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("dask_jobqueue")
    with slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


def maps(folder):
    """Bytes of the voxels of each map."""
    files = sorted(Path(folder).glob("*.nii.gz"))
    return {file.name: np.asarray(nib.load(file).dataobj).tobytes() for file in files}


def jobs_of(client):
    """Numbers of the jobs whose workers are there."""
    return set(client.run(lambda: __import__("os").environ["SLURM_JOB_ID"], on_error="ignore").values())


def command(cohort, output, *arguments):
    nib.save(cohort.mask_img, cohort.folder.parent / "mask.nii.gz")
    return [
        sys.executable, "-m", "daskglm.cli.main", "group", f"{cohort.folder}/*.nii.gz", "--mask",
        str(cohort.folder.parent / "mask.nii.gz"), "--participants", cohort.table_path, "--formula", "~ age + sex",
        "--contrast", "age", "--f-contrast", "both=age, sex[T.M]", "--output", str(output), *arguments,
    ]  # fmt: skip


def test_two_jobs_are_two_workers(folder):
    with daskglm.cluster.connect(slurm_file(folder)) as client:
        client.wait_for_workers(2, timeout=60)
        running = jobs()
        assert len(running) == 2
        environment = client.run(lambda: {name: __import__("os").environ.get(name) for name in
                                          ("SLURM_JOB_ID", "OMP_NUM_THREADS", "SLURM_JOB_PARTITION")})  # fmt: skip
        assert {worker["SLURM_JOB_ID"] for worker in environment.values()} == set(running)
        assert {worker["OMP_NUM_THREADS"] for worker in environment.values()} == {"1"}
        assert {worker["SLURM_JOB_PARTITION"] for worker in environment.values()} == {"debug"}
        assert client.scheduler.address.startswith("tls://127.0.0.1")
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {worker["memory_limit"] // 2**20 for worker in workers} == {10**9 // 2**20 - 1}
        script = subprocess.run(["scontrol", "write", "batch_script", running[0], "-"], capture_output=True, text=True,
                                check=True).stdout  # fmt: skip
        assert re.search(r"--lifetime 420s --lifetime-stagger 60s", script)
    for _ in range(100):
        if not jobs():
            break
        time.sleep(0.1)
    assert not jobs()  # nothing is left in the queue
    assert not list(folder.glob(".daskglm-tls*"))  # nor a key on the disk


def test_group_analysis_by_the_command_line(folder, gappy, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run(command(gappy, here), check=True, capture_output=True)
    run = subprocess.run(command(gappy, there, "--cluster", slurm_file(folder)), capture_output=True, text=True,
                         timeout=180, check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "12 images" in run.stdout
    expected = maps(here)
    assert {"contrast-age_stat-z_statmap.nii.gz", "contrast-both_stat-F_statmap.nii.gz", "n.nii.gz"} <= set(expected)
    assert maps(there) == expected
    assert json.loads((there / "provenance.json").read_text())
    logs = sorted((folder / "logs").glob("*.err"), key=lambda path: path.stat().st_mtime)
    assert "distributed.worker" in logs[-1].read_text()


class Watch:
    """Workers that take their time and note each task that they begin."""

    def plugin(self, notes):
        class Slow(WorkerPlugin):  # local: travels to the workers as code
            def setup(self, worker):
                self.name = str(worker.name)

            def transition(self, key, start, finish, **_):
                if finish == "executing":
                    with open(notes, "a") as file:
                        file.write(f"{self.name}\n")
                    time.sleep(0.2)

        return Slow()


def test_a_job_is_cancelled_in_the_middle(folder, gappy, tmp_path):
    """The rest of the workers, and the job submitted in its place, finish the same maps."""
    notes = tmp_path / "notes"
    arguments = {
        "formula": "~ age + sex",
        "contrasts": {"age": "age"},
        "mask": gappy.mask_img,
        "participants": gappy.table_path,
    }
    daskglm.group_analysis(gappy.paths, str(tmp_path / "here"), **arguments)
    expected = maps(tmp_path / "here")
    with daskglm.cluster.connect(slurm_file(folder)) as client:
        client.wait_for_workers(2, timeout=60)
        client.register_plugin(Watch().plugin(str(notes)))
        cancelled = []

        def cancel():
            while not cancelled:
                names = notes.read_text().splitlines() if notes.exists() else []
                for name, job in dict(client.cluster.workers).items():
                    if names.count(str(name)) >= 3:
                        subprocess.run(["scancel", "--signal=KILL", "--full", job.job_id], check=True)
                        cancelled.append(job.job_id)
                        break
                time.sleep(0.02)

        thread = threading.Thread(target=cancel, daemon=True)
        thread.start()
        daskglm.group_analysis(gappy.paths, str(tmp_path / "there"), **arguments)
        thread.join(10)
        assert len(cancelled) == 1
        assert cancelled[0] not in jobs_of(client)  # its worker is gone, and the work went on
    assert maps(tmp_path / "there") == expected


def test_jobs_are_replaced_after_their_end(folder):
    """A fixed number of jobs is kept: where one ends, as at its walltime, another is submitted."""
    import dask

    soon = dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"})
    with soon, daskglm.cluster.connect(slurm_file(folder, scale=1)) as client:
        (first,) = jobs_of(client)
        subprocess.run(["scancel", first], check=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and jobs_of(client) in (set(), {first}):
            time.sleep(0.1)
        assert client.submit(lambda: __import__("os").environ["SLURM_JOB_ID"]).result(timeout=60) != first


def test_a_refused_job_is_an_error(folder):
    path = slurm_file(folder, options={"queue": "nosuch"})
    with (
        pytest.raises(ClusterError, match=r"the queue system refused the jobs: .*invalid partition specified: nosuch"),
        daskglm.cluster.connect(path),
    ):
        pass
    assert not jobs()


def test_a_job_that_never_starts_is_an_error(folder):
    """A job that waits for more cores than there are free: what to look at is said, and the job is withdrawn."""
    path = slurm_file(folder, scale=1, wait_for_workers=2, options={"job_extra_directives": ["--hold"]})
    with (
        pytest.raises(ClusterError, match=r"no worker of the slurm cluster came within 2 s.*squeue --me.*logs"),
        daskglm.cluster.connect(path),
    ):
        pass
    assert not jobs()
