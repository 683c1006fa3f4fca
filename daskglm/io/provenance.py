"""What made a result: versions of the software and the machine."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "daskglm",
    "dask",
    "distributed",
    "xarray",
    "zarr",
    "nibabel",
    "numpy",
    "scipy",
    "pandas",
    "formulaic",
)


def software() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Returns
    -------
    dict of str to str
        Package to version.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
