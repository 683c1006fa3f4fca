"""One function a kind of cluster: configuration -> a client, which a stack closes with the cluster."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from daskglm.cluster.configuration import ClusterError, Configuration
from daskglm.cluster.jobs import check_submission, job_options
from daskglm.cluster.known_options import KINDS, QUEUES, needed

_LOOPBACK = ("127.", "localhost", "::1", "[::1]")
# An address without a host listens on every interface; without a port of its own two runs would meet.
_DASHBOARD = "127.0.0.1:0"


def _start_local(configuration: Configuration, stack: ExitStack) -> Any:
    """Worker processes on this machine, which nobody else reaches unless the file says so."""
    import dask
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": _DASHBOARD, **configuration.options}
    if "interface" not in options:
        options.setdefault("host", "127.0.0.1")
    _warn_if_open(configuration, options)
    if configuration.tls:
        needed("cryptography", "cluster")
        options |= {"protocol": "tls://", "security": True}
    if "local_directory" not in options:
        # Not Dask's own, of a name that anyone may take first: what workers spill there is unpickled.
        folder = tempfile.TemporaryDirectory(
            prefix="daskglm-", dir=dask.config.get("temporary-directory", None), ignore_cleanup_errors=True
        )
        options["local_directory"] = stack.enter_context(folder)
    # Worker processes inherit the environment, before they import anything, and again when they are restarted.
    stack.enter_context(_environment(configuration.environment))
    scale = configuration.scale
    # After Ctrl-C this process ends its workers; a terminal would send it to them, too, who print where they were.
    options["preload"] = ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"]
    cluster = LocalCluster(n_workers=scale[0] if isinstance(scale, tuple) else scale, **options)
    return _client_of(cluster, configuration, stack)


def _start_address(configuration: Configuration, stack: ExitStack) -> Any:
    """A scheduler that runs already."""
    from distributed import Client, Security

    options = dict(configuration.options)
    address = options.pop("address")
    security = Security(require_encryption=True, **options) if options else None
    return stack.enter_context(Client(address, security=security, timeout="10s"))


def _start_ssh(configuration: Configuration, stack: ExitStack) -> Any:
    """A scheduler on the first host, a worker on each of the others."""
    import dask
    from distributed import SSHCluster

    needed("asyncssh", "ssh")
    options = dict(configuration.options)
    scheduler = {"dashboard_address": _DASHBOARD, **options.pop("scheduler_options", {})}
    workers = {"nthreads": 1, "dashboard_address": _DASHBOARD, **options.pop("worker_options", {})}
    workers["env"] = {**workers.get("env", {}), **configuration.environment}
    _warn_if_open(configuration, {"host": "", **scheduler})
    security = None
    if configuration.tls:
        security = stack.enter_context(_tls_files("~", "ssh"))
        # Paths alone travel, in the Dask configuration that the remote processes are given.
        settings = {f"distributed.comm.tls.{name}": value for name, value in _dask_names(security).items()}
        stack.enter_context(dask.config.set({**settings, "distributed.comm.require-encryption": True}))
        scheduler["protocol"] = workers["protocol"] = "tls"
    _link_dashboard(scheduler["dashboard_address"], stack)
    cluster = SSHCluster(scheduler_options=scheduler, worker_options=workers, security=security, **options)
    return _client_of(cluster, configuration, stack)


def _start_jobs(configuration: Configuration, stack: ExitStack) -> Any:
    """Jobs of a queue system, each of which starts workers."""
    check_submission(configuration.kind)
    cluster = job_cluster(configuration, stack)
    client = _client_of(cluster, configuration, stack)
    scale = configuration.scale
    least, most = scale if isinstance(scale, tuple) else (scale, scale)
    for _ in range(least or 1):
        cluster.worker_spec.update(cluster.new_worker_spec())
    # Not scale(), which submits in the background: a refused job has to be an error here and now.
    cluster.sync(_submitted, cluster)
    # For a fixed number too: this alone replaces the jobs whose walltime is over.
    cluster.adapt(minimum_jobs=least, maximum_jobs=most)
    return client


def job_cluster(configuration: Configuration, stack: ExitStack) -> Any:
    """The dask-jobqueue cluster, with its scheduler running here and no job submitted yet.

    Parameters
    ----------
    configuration : Configuration
        Of a job queue.
    stack : ExitStack
        Closes the cluster.

    Returns
    -------
    dask_jobqueue.JobQueueCluster
    """
    options = job_options(configuration)
    scheduler = {"dashboard_address": _DASHBOARD, **options.pop("scheduler_options", {})}
    _warn_if_open(configuration, {"host": "", **scheduler})
    if configuration.tls:
        # Files of our own: those of dask-jobqueue stay until Python ends, which is long in a notebook.
        security = stack.enter_context(_tls_files(options.pop("shared_temp_directory", "~"), "cluster"))
        options |= {"protocol": "tls://", "security": security}
    _link_dashboard(scheduler["dashboard_address"], stack)
    cluster_class = getattr(needed("dask_jobqueue", "cluster"), QUEUES[configuration.kind])
    return stack.enter_context(cluster_class(scheduler_options=scheduler, **options))


def _start_kubernetes(configuration: Configuration, stack: ExitStack) -> Any:
    """Pods that the Dask operator of a Kubernetes cluster starts."""
    operator = needed("dask_kubernetes.operator", "kubernetes")
    options = dict(configuration.options)
    names = ("namespace", "resource_timeout", "port_forward_cluster_ip", "scheduler_forward_port")
    given = {name: options[name] for name in names if name in options}
    if options.get("scheduler_service_type", "ClusterIP") != "ClusterIP":
        _warn_if_open(configuration, {"host": ""})
    cluster = operator.KubeCluster(custom_cluster_spec=kubernetes_spec(configuration), quiet=True, **given)
    return _client_of(cluster, configuration, stack)


def kubernetes_spec(configuration: Configuration) -> dict[str, Any]:
    """The DaskCluster resource that the operator is given.

    Parameters
    ----------
    configuration : Configuration
        Of kind kubernetes.

    Returns
    -------
    dict
        With the commands ``dask scheduler`` and ``dask worker``: the operator's own, dask-scheduler and dask-worker,
        are gone from distributed since 2026.6.
    """
    from uuid import uuid4

    kubecluster = needed("dask_kubernetes.operator.kubecluster.kubecluster", "kubernetes")
    options, scale = configuration.options, configuration.scale
    names = ("image", "resources", "scheduler_service_type", "idle_timeout")
    spec: dict[str, Any] = kubecluster.make_cluster_spec(
        name=options.get("name", f"daskglm-{uuid4().hex[:8]}"),
        n_workers=scale[0] if isinstance(scale, tuple) else scale,
        env=configuration.environment,
        **{name: options[name] for name in names if name in options},
    )
    (scheduler,) = spec["spec"]["scheduler"]["spec"]["containers"]
    (worker,) = spec["spec"]["worker"]["spec"]["containers"]
    scheduler["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104 (within its pod)
    worker["args"] = [
        "dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", "1",
        "--dashboard", "--dashboard-address", "8788",
    ]  # fmt: skip
    for container in (scheduler, worker):
        if container["resources"] is None:
            del container["resources"]
    return spec


def _start_gateway(configuration: Configuration, stack: ExitStack) -> Any:
    """A cluster that a Dask Gateway server starts."""
    gateway = needed("dask_gateway", "gateway")
    return _client_of(gateway.GatewayCluster(**configuration.options), configuration, stack)


START: dict[str, Callable[[Configuration, ExitStack], Any]] = {
    "local": _start_local,
    "address": _start_address,
    "ssh": _start_ssh,
    **dict.fromkeys(QUEUES, _start_jobs),
    "kubernetes": _start_kubernetes,
    "gateway": _start_gateway,
}
if set(START) != set(KINDS):
    raise AssertionError("each kind is started by one function")


def _client_of(cluster: Any, configuration: Configuration, stack: ExitStack) -> Any:
    """A client of a cluster that was started, scaled where that is not done otherwise."""
    from distributed import Client

    if configuration.kind not in QUEUES:
        stack.enter_context(cluster)
    client = stack.enter_context(Client(cluster, timeout="60s"))
    if configuration.kind in QUEUES or configuration.scale is None:
        return client
    if isinstance(configuration.scale, tuple):
        cluster.adapt(minimum=configuration.scale[0], maximum=configuration.scale[1])
    elif configuration.kind == "gateway":
        cluster.scale(configuration.scale)
    return client


async def _submitted(cluster: Any) -> None:
    """Wait until the jobs are submitted."""
    from distributed import Status

    try:
        await cluster
    except RuntimeError as error:
        for job in cluster.workers.values():
            if job.status == Status.created:  # or closing the cluster would wait for it to start
                job.status = Status.failed
        reason = " ".join(str(error).rpartition("stderr:")[2].split())
        raise ClusterError(f"the queue system refused the jobs: {reason}") from error


def _link_dashboard(address: str, stack: ExitStack) -> None:
    """Let the dashboard's link name the loopback where it listens there, while the scheduler listens elsewhere."""
    import dask

    if str(address).startswith(_LOOPBACK):
        link = "{scheme}://127.0.0.1:{port}/status"
        stack.enter_context(dask.config.set({"distributed.dashboard.link": link}))


def _warn_if_open(configuration: Configuration, options: dict[str, Any]) -> None:
    """Warn where others on the network can connect: whoever connects to a scheduler runs code as its user."""
    hosts = [
        str(options.get("host") or options.get("interface") or ""),
        str(options.get("dashboard_address", _DASHBOARD)),
    ]
    if not configuration.tls and not all(host.startswith((*_LOOPBACK, "lo")) for host in hosts):
        warnings.warn(
            f"this {configuration.kind} cluster listens beyond this machine without TLS: whoever reaches it on the "
            "network can run code as you or watch; add tls: true to its file",
            stacklevel=2,
        )


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of this process, for what it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _tls_files(parent: str, extra: str) -> Iterator[Any]:
    """Security by a key and a certificate of this run, in a folder that its owner alone can read until the run ends."""
    from distributed import Security

    needed("cryptography", extra)
    made = Security.temporary()
    parent = os.path.expanduser(os.path.expandvars(parent))
    with tempfile.TemporaryDirectory(prefix=".daskglm-tls-", dir=parent) as folder:  # made with mode 0700
        key, certificate = Path(folder, "key.pem"), Path(folder, "certificate.pem")
        key.touch(0o600)
        key.write_text(made.tls_client_key)
        certificate.write_text(made.tls_client_cert)
        roles = ("client", "scheduler", "worker")
        yield Security(
            require_encryption=True,
            tls_ca_file=str(certificate),
            **{f"tls_{role}_cert": str(certificate) for role in roles},
            **{f"tls_{role}_key": str(key) for role in roles},
        )


def _dask_names(security: Any) -> dict[str, str]:
    """The files of a security object under the names that Dask's configuration has for them."""
    names = {"ca-file": security.tls_ca_file}
    for role in ("client", "scheduler", "worker"):
        names[f"{role}.cert"] = getattr(security, f"tls_{role}_cert")
        names[f"{role}.key"] = getattr(security, f"tls_{role}_key")
    return names
