"""A cluster to run on, by name, address or YAML file."""

from daskglm.cluster.configuration import ClusterError, Configuration, read_configuration
from daskglm.cluster.connection import connect

__all__ = ["ClusterError", "Configuration", "connect", "read_configuration"]
