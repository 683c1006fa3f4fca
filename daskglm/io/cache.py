"""Moments on disk: a finished pass over the images, kept."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from daskglm.kernels.moments import Moments

_FIELDS = ("gram", "cross", "power", "count", "reference", "incomplete", "gram_incomplete")


def save_moments(path: str, moments: Sequence[Moments]) -> None:
    """Write the moments of consecutive chunks of voxels, whole or not at all.

    Parameters
    ----------
    path : str
        A .npz file.
    moments : sequence of Moments
        One a chunk of voxels.
    """
    arrays: dict[str, Any] = {}
    for index, item in enumerate(moments):
        arrays |= {f"{index}.{field}": getattr(item, field) for field in _FIELDS}
        arrays[f"{index}.n_samples"] = np.array(item.n_samples)
        arrays[f"{index}.constant"] = np.empty(0) if item.constant is None else item.constant
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial.npz"
    np.savez(partial, **arrays)
    os.replace(partial, path)


def load_moments(path: str) -> list[Moments] | None:
    """Read what :func:`save_moments` wrote; None where there is no such file.

    Parameters
    ----------
    path : str
        A .npz file.

    Returns
    -------
    list of Moments or None
    """
    if not os.path.exists(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        count = len({name.split(".")[0] for name in file.files})
        return [
            Moments(
                **{field: file[f"{index}.{field}"] for field in _FIELDS},
                n_samples=int(file[f"{index}.n_samples"]),
                constant=file[f"{index}.constant"] if file[f"{index}.constant"].size else None,
            )
            for index in range(count)
        ]
