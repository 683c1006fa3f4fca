"""Files of cluster_configs: each is valid, and what is wrong in one is told by name."""

import importlib.resources
import os
import re
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
import yaml
from slurm_cluster import CONFIGS

import daskglm
from daskglm.cluster import ClusterError, read_configuration
from daskglm.cluster.jobs import walltime_seconds, worker_lifetime
from daskglm.cluster.known_options import KINDS, QUEUES
from daskglm.cluster.sizes import ELSEWHERE, asked_for
from daskglm.cluster.starting import job_cluster, kubernetes_spec
from daskglm.errors import MissingDependencyError

# What the queue systems' manuals call the memory and the queue of a job.
DIRECTIVES = {
    "slurm": ["#SBATCH -p normal", "#SBATCH --mem=15G", "#SBATCH -t 04:00:00", "#SBATCH --cpus-per-task=4"],
    "pbs": ["#PBS -q workq", "#PBS -l select=1:ncpus=4:mem=15GB", "#PBS -l walltime=04:00:00"],
    "sge": ["#$ -q all.q", "#$ -l h_vmem=4G", "#$ -l h_rt=04:00:00", "#$ -pe smp 4"],
    "lsf": ["#BSUB -q normal", "#BSUB -M 16000", "#BSUB -W 04:00", "#BSUB -n 4"],
    "htcondor": ["MY.DaskWorkerMemory = 16000000000", "MY.DaskWorkerCores = 4", "RequestCpus = MY.DaskWorkerCores"],
    "oar": ["#OAR -q default", "#OAR -l /nodes=1/core=4,walltime=04:00:00"],
}


def write(folder, **content):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """A working folder for the log folder of the templates."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_file_a_kind():
    kinds = {file.stem: read_configuration(str(file)).kind for file in CONFIGS.glob("*.yaml")}
    assert kinds == {kind: kind for kind in KINDS}


# Jobs times processes; hosts without the scheduler's times processes; what no file says is None.
SIZES = {
    "slurm": (16, 1, 4 * 10**9), "pbs": (16, 1, 4 * 10**9), "sge": (16, 1, 4 * 10**9), "lsf": (16, 1, 4 * 10**9),
    "htcondor": (16, 1, 4 * 10**9), "oar": (16, 1, 4 * 10**9), "ssh": (12, 1, 4 * 10**9),
    "kubernetes": (4, 1, 4 * 2**30), "gateway": (4, 1, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_workers_that_a_file_asks_for(kind):
    """A plan reads them without starting any."""
    assert asked_for(read_configuration(str(CONFIGS / f"{kind}.yaml"))) == SIZES[kind]


def test_shared_clusters_encrypt():
    for kind in ("ssh", *QUEUES):
        assert read_configuration(str(CONFIGS / f"{kind}.yaml")).tls


@pytest.mark.parametrize("kind", QUEUES)
def test_job_scripts(kind, in_tmp):
    configuration = read_configuration(str(CONFIGS / f"{kind}.yaml"))
    with ExitStack() as stack:
        cluster = job_cluster(configuration, stack)
        script = cluster.job_script()
        assert cluster.dashboard_link.startswith("http://127.0.0.1:")
    assert re.search(r" -m distributed\.cli\.dask_worker tls://|dask worker tls://", script)
    assert "dask-worker " not in script.replace("-J dask-worker", "")
    for directive in DIRECTIVES[kind]:
        assert directive in script
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert script.index(f"export {variable}=1") < script.index("dask_worker")
    assert "--nthreads 1 --memory-limit 3.73GiB --nworkers 4" in script  # 16 GB of four processes
    assert not re.search(r"BEGIN|PRIVATE", script)  # the key is in a file, not in the script
    assert "--dashboard-address 127.0.0.1:0" in script  # a worker's page knows no TLS
    lifetime = re.search(r"--lifetime (\d+)s --lifetime-stagger (\d+)s", script)
    if kind == "htcondor":
        assert lifetime is None
    else:
        assert sum(map(int, lifetime.groups())) <= 4 * 3600 - 300


def test_key_of_tls_is_private(in_tmp):
    configuration = read_configuration(write(
        in_tmp, kind="slurm", tls=True, scale=1,
        options={"cores": 1, "memory": "1GB", "shared_temp_directory": str(in_tmp)},
    ))  # fmt: skip
    with ExitStack() as stack:
        job_cluster(configuration, stack)
        (folder,) = in_tmp.glob(".daskglm-tls-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not folder.exists()


def test_kubernetes_spec(tmp_path):
    pytest.importorskip("dask_kubernetes", reason="dask-kubernetes is not installed")
    import jsonschema

    configuration = read_configuration(str(CONFIGS / "kubernetes.yaml"))
    spec = kubernetes_spec(configuration)
    folder = importlib.resources.files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator/crds"
    crd = yaml.safe_load((folder / "daskcluster.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(spec, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**spec, "spec": {**spec["spec"], "worker": {"replicas": "four"}}}, schema)
    (scheduler,) = spec["spec"]["scheduler"]["spec"]["containers"]
    (worker,) = spec["spec"]["worker"]["spec"]["containers"]
    assert scheduler["args"][:2] == ["dask", "scheduler"]
    assert worker["args"][:2] == ["dask", "worker"]
    assert spec["spec"]["worker"]["replicas"] == 4
    for container in (scheduler, worker):
        assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
        assert container["resources"]["limits"]["memory"] == "4Gi"


THREADS = [
    ({"kind": "local"}, "1"),
    ({"kind": "local", "options": {"threads_per_worker": 3}}, "3"),
    ({"kind": "ssh", "options": {"hosts": ["a", "b"], "worker_options": {"nthreads": 2}}}, "2"),
    ({"kind": "slurm", "scale": 1, "options": {"cores": 8, "processes": 2}}, "4"),
    ({"kind": "slurm", "scale": 1, "options": {"cores": 2, "processes": 4}}, "1"),
]


@pytest.mark.parametrize(("content", "threads"), THREADS, ids=str)
def test_a_worker_decompresses_on_as_many_threads_as_it_has(content, threads, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    assert read_configuration(str(path)).environment["ZARR_THREADING__MAX_WORKERS"] == threads
    content["environment"] = {"ZARR_THREADING__MAX_WORKERS": 7, "MALLOC_ARENA_MAX": 9}
    path.write_text(yaml.safe_dump(content))
    environment = read_configuration(str(path)).environment
    assert environment["ZARR_THREADING__MAX_WORKERS"] == "7"
    assert environment["MALLOC_ARENA_MAX"] == "9"


WRONG = [
    ({"kind": "slrum"}, "kind must be 'local', .*got 'slrum'"),
    ({"kind": "local", "optoins": {}}, "unknown key 'optoins'; did you mean 'options'"),
    ({"kind": "local", "workers": 3}, "unknown key 'workers'"),
    ({"kind": "local", "options": {"threads_per_wroker": 1}}, "did you mean 'threads_per_worker'"),
    ({"kind": "slurm", "scale": 1, "options": {"memroy": "1GB"}}, "unknown option 'memroy'; did you mean 'memory'"),
    ({"kind": "slurm", "scale": 1, "options": {"wall-time": "1:00"}}, "did you mean 'walltime'"),
    ({"kind": "slurm", "scale": 1, "options": {"project": "me"}}, "unknown option 'project'"),
    ({"kind": "pbs", "scale": 1, "options": {"job_mem": "1GB"}}, "unknown option 'job_mem'"),
    ({"kind": "slurm", "scale": 1, "options": {"scheduler_options": {"hsot": "x"}}}, "did you mean 'host'"),
    ({"kind": "ssh", "options": {"hosts": ["a"], "connect_options": {"user_name": "x"}}}, "did you mean 'username'"),
    ({"kind": "ssh", "options": {"hosts": ["a"], "worker_options": {"nthread": 1}}}, "did you mean 'nthreads'"),
    ({"kind": "kubernetes", "scale": 1, "options": {"imgae": "x"}}, "did you mean 'image'"),
    ({"kind": "slurm", "scale": 1, "options": {"queue": "a\n#SBATCH --uid=0"}}, "queue may hold no line break"),
    ({"kind": "slurm", "scale": 1, "options": {"job_script_prologue": ["a\rb"]}}, "may hold no line break"),
    ({"kind": "htcondor", "scale": 1, "options": {"job_extra_directives": {"a\nb": 1}}}, "may hold no line break"),
    (
        {"kind": "ssh", "options": {"hosts": ["a"], "worker_options": {"local_directory": "'; id; '"}}},
        "may hold no line break",
    ),
    ({"kind": "local", "environment": {"A": "x\ny"}}, "A may hold no line break"),
    ({"kind": "local", "environment": {"A;id": "x"}}, "not the name of a variable"),
    ({"kind": "local", "environment": {"OMP_NUM_THREADS": 8}}, "always 1"),
    ({"kind": "slurm", "scale": 0}, "number of workers from 1"),
    ({"kind": "slurm"}, "number of workers from 1"),
    ({"kind": "slurm", "scale": {"minimum": 5, "maximum": 2}}, "a maximum not below it"),
    ({"kind": "slurm", "scale": {"min": 5}}, "unknown key of scale 'min'"),
    ({"kind": "ssh", "scale": 3, "options": {"hosts": ["a"]}}, "scale is settled where"),
    ({"kind": "ssh"}, "needs the option hosts"),
    ({"kind": "local", "tls": "yes please"}, "true or false"),
    ({"kind": "address", "tls": True, "options": {"address": "tcp://x:1"}}, "begins with tls://"),
    ({"kind": "local", "wait_for_workers": "soon"}, "a time such as"),
    ({"kind": "local", "wait_for_workers": -1}, "a time such as"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_wrong_files(content, message, tmp_path):
    with pytest.raises(ClusterError, match=message):
        read_configuration(write(tmp_path, **content))


def test_what_is_no_file(tmp_path):
    with pytest.raises(ClusterError, match="there is no 'nowhere'"), daskglm.cluster.connect("nowhere"):
        pass
    path = tmp_path / "cluster.yaml"
    for text, message in (
        ("- a\n", "has to hold keys"),
        ("kind: [", "cannot read"),
        ("!!python/object/apply:os.system ['touch pwned']", "cannot read"),
    ):
        path.write_text(text)
        with pytest.raises(ClusterError, match=message):
            read_configuration(str(path))
    assert not os.path.exists("pwned")


@pytest.mark.parametrize(
    ("kind", "walltime", "seconds"),
    [
        # sbatch(1): minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, ...
        ("slurm", "90", 5400), ("slurm", "1:30", 90), ("slurm", "01:00:00", 3600), ("slurm", "2-12", 216000),
        ("slurm", "1-00:30", 88200), ("slurm", "1-01:01:01", 90061), ("pbs", "90", 90), ("pbs", "10:00", 600),
        ("sge", "00:30:00", 1800), ("lsf", "90", 5400), ("lsf", "04:00", 14400), ("oar", "4", 14400),
        ("oar", "0:30", 1800),
    ],
)  # fmt: skip
def test_walltimes(kind, walltime, seconds):
    assert walltime_seconds(kind, walltime) == seconds


def test_wrong_walltimes(in_tmp):
    for kind, walltime in (("slurm", 43200), ("slurm", "soon"), ("lsf", "1:00:00"), ("pbs", "1-00"), ("slurm", "0:30")):
        with pytest.raises(ClusterError, match="walltime"):
            walltime_seconds(kind, walltime)
    path = in_tmp / "cluster.yaml"
    path.write_text("kind: slurm\nscale: 1\noptions: {cores: 1, memory: 1GB, walltime: 12:00:00}\n")  # no quotes
    with ExitStack() as stack, pytest.raises(ClusterError, match="in quotes, as in '12:00:00', but it is 43200"):
        job_cluster(read_configuration(str(path)), stack)
    path.write_text("kind: slurm\nscale: 1\noptions: {cores: 1, memory: 1GB, worker_extra_args: [--lifetime, 9d]}\n")
    with ExitStack() as stack, pytest.raises(ClusterError, match="follows from the walltime"):
        job_cluster(read_configuration(str(path)), stack)


def test_lifetimes_end_before_walltimes():
    walltimes = np.unique(np.geomspace(60, 30 * 86400, 200).astype(int)).tolist()
    for walltime in walltimes:
        lifetime, stagger = worker_lifetime(walltime)
        assert walltime / 2 < lifetime - stagger < lifetime + stagger <= walltime - min(300, walltime // 5)
        assert stagger >= 6


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("slurm", "dask_jobqueue", "cluster"), ("ssh", "asyncssh", "ssh"), ("kubernetes", "dask_kubernetes.operator",
     "kubernetes"), ("gateway", "dask_gateway", "gateway")],
)  # fmt: skip
def test_missing_packages(kind, module, extra, tmp_path, monkeypatch):
    options = {"ssh": {"hosts": ["a"]}, "gateway": {"address": "http://127.0.0.1:9"}}.get(kind, {})
    path = write(tmp_path, kind=kind, options=options, **({} if kind == "ssh" else {"scale": 1}))
    monkeypatch.setitem(__import__("sys").modules, module, None)  # makes its import fail
    with (
        pytest.raises(MissingDependencyError, match=rf"pip install 'daskglm\[{extra}\]'"),
        daskglm.cluster.connect(path),
    ):
        pass


def test_no_queue_here(in_tmp, monkeypatch):
    monkeypatch.setenv("PATH", str(in_tmp))
    path = write(in_tmp, kind="slurm", scale=1, options={"cores": 1, "memory": "1GB"})
    with (
        pytest.raises(ClusterError, match="submitted by sbatch, which this machine does not have"),
        daskglm.cluster.connect(path),
    ):
        pass


def test_listening_beyond_this_machine_without_tls(in_tmp):
    options = {"cores": 1, "memory": "1GB"}
    path = write(in_tmp, kind="slurm", scale=1, options=options)
    with ExitStack() as stack, pytest.warns(UserWarning, match="listens beyond this machine without TLS.*tls: true"):
        job_cluster(read_configuration(path), stack)
    path = write(in_tmp, kind="slurm", scale=1, options={**options, "scheduler_options": {"host": "127.0.0.1"}})
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("error")
        job_cluster(read_configuration(path), stack)
