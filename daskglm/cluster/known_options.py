"""The options of each kind of cluster, taken from the class that they are for.

dask-jobqueue ignores what it does not know: a misspelt memory would be no memory at all.
"""

import importlib
import inspect
from typing import Any

from daskglm.errors import MissingDependencyError

QUEUES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
}
KINDS = ("local", "address", "ssh", *QUEUES, "kubernetes", "gateway")

_OPTIONS = {
    "local": (
        "threads_per_worker", "memory_limit", "host", "interface", "scheduler_port", "dashboard_address",
        "local_directory",
    ),
    "address": ("address", "tls_ca_file", "tls_client_cert", "tls_client_key"),
    "ssh": ("hosts", "connect_options", "worker_options", "scheduler_options", "remote_python"),
    "kubernetes": (
        "name", "namespace", "image", "resources", "idle_timeout", "scheduler_service_type",
        "port_forward_cluster_ip", "scheduler_forward_port", "resource_timeout",
    ),
    "gateway": ("address", "proxy_address", "public_address", "auth", "cluster_options", "shutdown_on_close"),
}  # fmt: skip
# Objects that no file can hold, deprecated names, and what other keys of the schema say.
_NOT_FOR_FILES = {
    "self", "kwargs", "loop", "asynchronous", "security", "protocol", "blocked_handlers", "job_cls", "scheduler_cls",
    "config_name", "scheduler", "name", "n_workers", "dashboard_address", "host", "silence_logs", "extra", "job_extra",
    "env_extra", "header_skip", "job_kwargs", "base_class_kwargs",
}  # fmt: skip


def known_options(kind: str) -> tuple[str, ...]:
    """Names of the options of a kind of cluster.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.

    Returns
    -------
    tuple of str

    Raises
    ------
    MissingDependencyError
        Where the package that knows them is not installed.
    """
    if kind not in QUEUES:
        return _OPTIONS[kind]
    cluster_class = getattr(needed("dask_jobqueue", "cluster"), QUEUES[kind])
    names = set(inspect.signature(cluster_class.__init__).parameters)
    for job_class in cluster_class.job_cls.__mro__[:-1]:
        names |= set(inspect.signature(job_class.__init__).parameters)
    names -= _NOT_FOR_FILES
    if "account" in names:
        names.discard("project")  # its deprecated name
    return tuple(sorted(names))


def nested_options(name: str) -> tuple[str, ...] | None:
    """Names of the keys of an option that has keys of its own.

    Parameters
    ----------
    name : str
        Of the option.

    Returns
    -------
    tuple of str or None
        None for an option with a plain value, and for those whose keys the other side alone knows.

    Raises
    ------
    MissingDependencyError
        Where the package that knows them is not installed.
    """
    if name == "connect_options":
        options: Any = needed("asyncssh", "ssh").SSHClientConnectionOptions
        return tuple(set(inspect.signature(options.prepare).parameters) | {"port", "options"})
    if name not in ("scheduler_options", "worker_options"):
        return None
    import distributed

    classes = {"scheduler_options": ("Scheduler",), "worker_options": ("Worker", "Nanny")}[name]
    names = {"n_workers"} if name == "worker_options" else set()
    for each in classes:
        names |= set(inspect.signature(getattr(distributed, each).__init__).parameters)
    return tuple(names - (_NOT_FOR_FILES - {"dashboard_address", "host", "n_workers"} | {"scheduler_ip", "nanny"}))


def needed(module: str, extra: str) -> Any:
    """A module of an optional dependency.

    Parameters
    ----------
    module : str
        To import.
    extra : str
        The extra of daskglm that installs it.

    Returns
    -------
    module

    Raises
    ------
    MissingDependencyError
        Where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise MissingDependencyError(
            f"this kind of cluster needs the package {package}, which is not installed; pip install 'daskglm[{extra}]'"
        ) from error
