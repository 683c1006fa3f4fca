"""A SLURM cluster of one node for tests, and a file to connect to it by."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "cluster_configs"
_SCRIPT = Path(__file__).with_name("slurm.sh")


@contextmanager
def slurm(folder: Path, nodes: int = 1) -> Iterator[Path]:
    """A cluster with its state in a folder; SLURM's commands of this process go to it. Skips where it cannot run."""
    before = os.environ.get("SLURM_CONF")
    started = subprocess.run(
        [_SCRIPT, "start", folder, str(nodes)], capture_output=True, text=True, timeout=300, check=False
    )
    if started.returncode == 77:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield folder
    finally:
        subprocess.run([_SCRIPT, "stop", folder], timeout=60, check=True)
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def slurm_file(folder: Path, *, options: dict[str, Any] | None = None, **keys: Any) -> str:
    """A copy in the folder of cluster_configs/slurm.yaml with two small jobs of one worker each, and other changes."""
    configuration = yaml.safe_load((CONFIGS / "slurm.yaml").read_text())
    configuration["options"] |= {
        "queue": "debug", "cores": 1, "processes": 1, "memory": "1GB", "walltime": "00:10:00",
        "scheduler_options": {"host": "127.0.0.1"}, "log_directory": str(folder / "logs"),
        "local_directory": str(folder / "workers"), "shared_temp_directory": str(folder), **(options or {}),
    }  # fmt: skip
    configuration |= {"scale": 2, "wait_for_workers": 60, **keys}
    path = folder / "slurm.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return str(path)


def jobs() -> list[str]:
    """Numbers of the jobs that wait or run."""
    command = ["squeue", "--noheader", "--format=%A", "--states=PENDING,RUNNING"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
