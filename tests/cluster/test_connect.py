"""Clusters on this machine: by worker processes, by address, by ssh; encrypted, and on the loopback alone."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from getpass import getuser
from pathlib import Path

import dask.array
import psutil
import pytest
import yaml
from distributed import Client, Security
from slurm_cluster import CONFIGS

import daskglm
from daskglm.cluster import ClusterError


def write(folder, **content):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def environment_of_blas():
    return [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MINE")]


def listening():
    """Hosts on which this process and its children listen."""
    me = psutil.Process()
    found = [c for p in (me, *me.children(recursive=True)) for c in p.net_connections() if c.status == "LISTEN"]
    return {c.laddr.ip for c in found}


def test_light_import():
    code = "import sys, daskglm; daskglm.cluster.connect; print({'distributed', 'zarr', 'dask'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_local_file(tmp_path, monkeypatch):
    """The template with two workers: one BLAS thread each, whatever the shell says, and nobody else can connect."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    configuration = yaml.safe_load((CONFIGS / "local.yaml").read_text())
    path = write(tmp_path, **configuration, scale=2, environment={"MINE": "a b"})
    before = listening()
    with daskglm.cluster.connect(path) as client:
        assert set(client.run(lambda: tuple(environment_of_blas())).values()) == {("1", "1", "1", "a b")}
        assert listening() - before <= {"127.0.0.1"}
        assert re.match(r"http://127\.0\.0\.1:\d+/status", client.dashboard_link)
        assert client.dashboard_link in client._repr_html_()  # what Jupyter shows
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MINE" not in os.environ


def test_tls_of_a_local_cluster(tmp_path):
    with daskglm.cluster.connect(write(tmp_path, kind="local", scale=1, tls=True)) as client:
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1")
        assert all(worker.startswith("tls://") for worker in client.nthreads())
        assert client.submit(sum, [1, 2]).result() == 3
        with (
            pytest.raises((OSError, TimeoutError)),
            Client(address.replace("tls://", "tcp://"), timeout="2s", set_as_default=False),
        ):
            pass
        with (
            pytest.raises((OSError, TimeoutError, TypeError, RuntimeError)),
            Client(address, timeout="2s", set_as_default=False),
        ):
            pass  # encrypted, but without the key


def test_open_local_cluster_is_warned_of(tmp_path):
    for options in ({"host": "0.0.0.0"}, {"dashboard_address": ":0"}):  # noqa: S104
        path = write(tmp_path, kind="local", scale=1, options=options)
        with pytest.warns(UserWarning, match="beyond this machine without TLS"), daskglm.cluster.connect(path):
            pass


def test_adaptive_local_cluster(tmp_path):
    path = write(tmp_path, kind="local", scale={"minimum": 1, "maximum": 2})
    with daskglm.cluster.connect(path) as client:
        assert client.gather(client.map(lambda x: x + 1, range(4))) == [1, 2, 3, 4]


def test_address(tmp_path):
    """A running scheduler, by address and by file; none there; and one without workers."""
    with daskglm.cluster.connect("local") as client:
        address = client.scheduler.address
        for cluster in (address, write(tmp_path, kind="address", options={"address": address})):
            with daskglm.cluster.connect(cluster) as second:
                assert second.submit(sum, [1, 2]).result() == 3
        client.cluster.scale(0)
        while client.nthreads():
            time.sleep(0.05)
        path = write(tmp_path, kind="address", options={"address": address}, wait_for_workers=0.5)
        with (
            pytest.raises(ClusterError, match=r"no worker .* within 0.5 s .*dask worker"),
            daskglm.cluster.connect(path),
        ):
            pass


def test_nobody_at_the_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match="cannot connect"), daskglm.cluster.connect(f"tcp://127.0.0.1:{port}"):
        pass
    assert dask.array.ones(3, chunks=1).sum().compute() == 3  # by threads, as before


@pytest.fixture
def sshd(tmp_path):
    """An ssh server on the loopback with keys of its own, and what a client needs to get in."""
    if os.geteuid() != 0:
        pytest.skip("sshd is started by root here")
    if not Path("/usr/sbin/sshd").exists():
        if shutil.which("apt-get") is None:
            pytest.skip("sshd is not installed, and there is no apt-get to install it with")
        command = "apt-get update && apt-get install -y --no-install-recommends openssh-server"
        if subprocess.run(["sh", "-c", command], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                          capture_output=True, check=False).returncode:  # fmt: skip
            pytest.skip("apt-get could not install openssh-server")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/client.pub\n"
        f"PasswordAuthentication no\nStrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin prohibit-password\n"
    )
    log = (folder / "log").open("w")
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", folder / "config"], stderr=log)
    while "Server listening" not in (folder / "log").read_text():
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.02)
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    yield {
        "port": port, "username": getuser(), "client_keys": [str(folder / "client")],
        "known_hosts": str(folder / "known_hosts"),
    }  # fmt: skip
    server.terminate()
    server.wait(10)
    log.close()


def test_ssh(sshd, tmp_path, monkeypatch):
    pytest.importorskip("asyncssh")
    monkeypatch.setenv("HOME", str(tmp_path))  # the key of the run goes there
    configuration = yaml.safe_load((CONFIGS / "ssh.yaml").read_text())
    configuration["options"] |= {
        "hosts": ["127.0.0.1"] * 3, "connect_options": sshd,
        "worker_options": {"nthreads": 1, "memory_limit": "1GB", "local_directory": str(tmp_path), "host": "127.0.0.1"},
        "scheduler_options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"},
    }  # fmt: skip
    with daskglm.cluster.connect(write(tmp_path, **configuration)) as client:
        client.wait_for_workers(2, timeout=60)
        assert client.scheduler.address.startswith("tls://127.0.0.1")
        assert set(client.run(lambda: os.environ["OMP_NUM_THREADS"]).values()) == {"1"}
        (folder,) = tmp_path.glob(".daskglm-tls-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
        plain = Security(require_encryption=False)
        address = client.scheduler.address.replace("tls", "tcp")
        with (
            pytest.raises((OSError, TimeoutError)),
            Client(address, security=plain, timeout="2s", set_as_default=False),
        ):
            pass
    assert not list(tmp_path.glob(".daskglm-tls-*"))


def test_ssh_without_a_server(tmp_path):
    pytest.importorskip("asyncssh")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = {
        "hosts": ["127.0.0.1"] * 2, "connect_options": {"port": port}, "scheduler_options": {"host": "127.0.0.1"},
    }  # fmt: skip
    with (
        pytest.raises(ClusterError, match="cannot connect to the cluster"),
        daskglm.cluster.connect(write(tmp_path, kind="ssh", options=options)),
    ):
        pass


def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import daskglm\nwith daskglm.connect('local'):\n    pass\n")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode != 0
    assert 'under: if __name__ == "__main__":' in run.stderr.splitlines()[-1]
    script.write_text(
        "import daskglm\nif __name__ == '__main__':\n    with daskglm.connect('local'):\n        print('there')\n"
    )
    assert (
        subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False).stdout
        == "there\n"
    )
