"""How fast chunks of a cohort store are made here."""

import time
from typing import Any

import numpy as np
import zarr

from daskglm.io.store import SAMPLES_PER_CHUNK, VOXELS_PER_CHUNK
from daskglm.io.store_writing import _codecs


def write_seconds(dtype: Any) -> float:
    """Time that a value takes to be compressed, with its checksum; nothing goes to disk.

    Parameters
    ----------
    dtype : numpy dtype
        Float32, or float64.

    Returns
    -------
    float
        Seconds.
    """
    shape = (SAMPLES_PER_CHUNK, VOXELS_PER_CHUNK)
    values = np.random.default_rng(0).standard_normal(shape, dtype=dtype)
    array = zarr.create_array(
        zarr.storage.MemoryStore(), shape=shape, chunks=shape, dtype=dtype, compressors=_codecs(values.itemsize)
    )
    array[:1] = values[:1]  # what is loaded late is loaded now
    started = time.perf_counter()
    array[:] = values
    return (time.perf_counter() - started) / values.size
