"""Images that an analysis would read, opened for its plan."""

import os
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np

from daskglm.graph.compute import compute_here
from daskglm.graph.glm import coverage
from daskglm.graph.images import lazy_array, read_prepared
from daskglm.graph.planning import count_tasks
from daskglm.io.files import is_url
from daskglm.io.formats import NiftiHeader
from daskglm.io.nifti import read_header
from daskglm.io.store import SAMPLES_PER_CHUNK, VOXELS_PER_CHUNK, is_store
from daskglm.models.inputs import Choice, Loaded, expand, load_images
from daskglm.models.options import Options, header_image, preparation
from daskglm.models.plan import files_bytes, folder_bytes, image_memory, seconds_of, store_memory
from daskglm.schema.datasets import space_of


@dataclass(frozen=True)
class Source:
    """Images that were opened and not read.

    Attributes
    ----------
    loaded : Loaded
        Images; of files without a mask in all voxels of the grid.
    masked : bool
        Whether the voxels are known.
    n_bytes : int
        Of the files or the store.
    image : int
        Most memory that reading one file takes; 0 for others.
    zero_is_missing : bool
        Whether zeros of a store are made missing as they are read.
    """

    loaded: Loaded
    masked: bool
    n_bytes: int
    image: int
    zero_is_missing: bool

    @property
    def data(self) -> da.Array:
        """The (n, V) images."""
        return lazy_array(self.loaded.images["data"])

    def reading(self, voxels: int) -> int:
        """Most memory that reading a block takes besides the block.

        Parameters
        ----------
        voxels : int
            Of the block.

        Returns
        -------
        int
            Bytes.
        """
        if self.image:
            return self.image
        rows = max(self.data.chunks[0])
        size = self.data.dtype.itemsize
        chunk = size * SAMPLES_PER_CHUNK * min(VOXELS_PER_CHUNK, voxels)
        # Samples or voxels that are left out are left out of a copy.
        copied = 2 * size + 2 if self.zero_is_missing else size
        return store_memory(size * rows * voxels, chunk) + rows * voxels * copied

    def passes(self, n_tasks: int) -> tuple[int, int, tuple[str, ...]]:
        """Bytes and tasks of all passes over the images.

        Parameters
        ----------
        n_tasks : int
            Of the analysis.

        Returns
        -------
        n_bytes, n_tasks : int
        notes : tuple of str
        """
        if self.masked:
            return self.n_bytes, n_tasks, ()
        note = "no mask is given: one more pass finds it, and until then every voxel of the grid may be in it"
        return 2 * self.n_bytes, n_tasks + count_tasks(coverage(self.data)), (note,)


def open_source(images: Any, options: Options, choose: Choice | None = None) -> Source:
    """Open images as an analysis does, but read none: not for the mask either.

    Parameters
    ----------
    images : glob, list of paths, store, dataset or Loaded
        Images; loaded ones have their mask.
    options : Options
        Mask and treatment.
    choose : callable, optional
        As of :func:`~daskglm.models.inputs.load_images`; loaded images are chosen.

    Returns
    -------
    Source

    Raises
    ------
    DaskGLMError
        As :func:`~daskglm.models.inputs.load_images`.
    """
    if isinstance(images, Loaded):
        loaded, masked = images, True
    else:
        given = expand(images) if isinstance(images, str) and not is_store(images) else images
        from_files = isinstance(given, list) and not (len(given) == 1 and is_store(given[0]))
        masked = not from_files or options.mask_img is not None
        loaded = load_images(given, options if masked else replace(options, mask_img=False), choose=choose)
    image = 0
    paths = loaded.sources
    if paths and not is_store(paths[0]):
        how = replace(
            preparation(header_image(paths[0]), replace(options, mask_img=False)), space=space_of(loaded.images)
        )
        image = image_memory(_most(read_header(paths[0]), loaded.images["data"].dtype), how)
    return Source(loaded, masked, _input_bytes(loaded), image, options.missing == "zero")


def read_seconds(source: Source) -> float:
    """Time of reading one value, from one image or one block.

    Parameters
    ----------
    source : Source
        Images.

    Returns
    -------
    float
        Seconds.
    """
    data, paths = source.data, source.loaded.sources
    if paths and not is_store(paths[0]) and len(paths) == data.shape[0]:
        how = replace(
            preparation(header_image(paths[0]), Options(mask_img=False)), space=space_of(source.loaded.images)
        )
        return seconds_of(lambda: read_prepared(paths[len(paths) // 2], how)) / data.shape[1]
    block = data.blocks[data.numblocks[0] // 2, data.numblocks[1] // 2]
    return seconds_of(lambda: compute_here(block)) / block.size


def _most(header: NiftiHeader, dtype: Any) -> NiftiHeader:
    """The header of an image of a list that takes most memory, by what all of them become."""
    if dtype == np.float64:
        return replace(header, on_disk=np.dtype("f8"), in_memory=np.dtype("f8"), slope=2.0)
    return replace(header, on_disk=np.dtype("f4"), in_memory=np.dtype("f4"), slope=1.0, intercept=0.0)


def _input_bytes(loaded: Loaded) -> int:
    """Bytes of the images on disk: of local files and stores theirs, of others those of the values."""
    paths = loaded.sources or [""]
    if paths[0] and not any(is_url(path) for path in paths):
        return folder_bytes(os.path.join(paths[0], "data")) if is_store(paths[0]) else files_bytes(paths)
    return int(loaded.images["data"].nbytes)
