"""What can be read and analysed, but is hardly meant: said before the work."""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskglm.errors import ImageError, listing, option
from daskglm.graph.compute import compute
from daskglm.graph.images import Preparation, look_for_zeros, part_of_zeros, read_prepared
from daskglm.io.cache import file_states, kept, load_arrays, save_arrays
from daskglm.io.files import identical, is_url
from daskglm.models.inputs import Loaded
from daskglm.models.options import Options
from daskglm.schema.datasets import sample_names, space_of

# So many images are looked at, spread over all of them, and so large a part of the mask is more than an edge.
_LOOKED_AT, _PART, _AT_ONCE = 8, 0.02, 2


def warn_of_doubts(loaded: Loaded, options: Options) -> None:
    """Warn of equal images and of zeros that are counted as data.

    Parameters
    ----------
    loaded : Loaded
        Images; a store was looked at when it was made.
    options : Options
        How they were loaded.
    """
    paths = list(loaded.sources or [])
    if len(paths) > 1:
        warn_of_equal_files(paths)
        how = Preparation(space_of(loaded.images))
        warn_of_zeros(dict(zip(sample_names(loaded.images), paths, strict=False)), how, options)
    elif loaded.sources is None and options.missing != "zero":
        images = loaded.images if loaded.untreated is None else loaded.untreated
        rows = _spread(range(images.sizes["sample"]))
        (values,) = compute(images["data"].data[rows], here=True)
        names = [sample_names(images)[row] for row in rows]
        tell_zeros(dict(zip(names, _parts(np.asarray(values)), strict=True)))


def warn_of_equal_files(paths: Sequence[str]) -> None:
    """Warn where files of different names have the same bytes.

    Parameters
    ----------
    paths : sequence of str
        Files or URLs of images of different subjects.
    """
    tell_equal([f"{one} and {other}" for one, other in identical(paths)])


def warn_of_equal_runs(sources: Sequence[Any]) -> None:
    """Warn where runs are given twice, or are files of the same bytes.

    Parameters
    ----------
    sources : sequence of str or nibabel image
        Runs of one model.
    """
    first: dict[Any, int] = {}
    places = [first.setdefault(item if isinstance(item, str) else id(item), k) for k, item in enumerate(sources)]
    twice = [f"run {place + 1} and run {k + 1}" for k, place in enumerate(places) if place != k]
    files = [item for item in first if isinstance(item, str)]
    tell_equal([*twice, *(f"{one} and {other}" for one, other in identical(files))])


def tell_equal(pairs: Sequence[str]) -> None:
    """Warn of pairs of images that are equal.

    Parameters
    ----------
    pairs : sequence of str
        As in "a and b".
    """
    if pairs:
        warnings.warn(
            f"images of different subjects and runs differ, but these have the same bytes: {listing(pairs, 4)}; check "
            "that each is what its name says",
            stacklevel=2,
        )


def warn_of_zeros(files: Mapping[str, str], how: Preparation, options: Options) -> None:
    """Warn where some images are zero at voxels at which others are not, as outside of a field of view.

    Parameters
    ----------
    files : mapping of str to str
        Sample name to path: some of them are read.
    how : Preparation
        What happens to each.
    options : Options
        Whether zeros are missing, or images are resampled: then nothing is looked for, nor behind URLs.
    """
    if (
        options.missing == "zero"
        or options.target_affine is not None
        or len(files) < 2
        or any(map(is_url, files.values()))
    ):
        return
    names, plain = _spread(list(files)), replace(how, smoothing_fwhm=None)
    paths = [files[name] for name in names]

    def look() -> list[NDArray[np.float64]]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rows = list(pool.map(lambda path: read_prepared(path, plain), paths))
        return [np.array(_parts(np.concatenate(rows)))]

    try:
        if options.memory is None:
            (lost,) = look()
        else:
            key = [file_states(paths), how.space]
            (lost,) = kept(options.memory, "zeros", key, look, save_arrays, load_arrays)
    except ImageError:  # told when it is its turn
        return
    tell_zeros(dict(zip(names, lost, strict=True)))


def _parts(values: NDArray[Any]) -> list[float]:
    """Part of the voxels at which each of some images (m, V) is zero and another is not."""
    return part_of_zeros([look_for_zeros(row) for row in values], values.shape[1])


def _spread(items: Sequence[Any]) -> list[Any]:
    """Some of many, evenly spread."""
    return [items[k] for k in np.unique(np.linspace(0, len(items) - 1, _LOOKED_AT).astype(int))]


def tell_zeros(parts: Mapping[str, float]) -> None:
    """Warn of images whose zeros are more than an edge.

    Parameters
    ----------
    parts : mapping of str to float
        Image to the part of the voxels at which it is zero and others are not.
    """
    found = [name for name, part in parts.items() if part > _PART]
    advice = option("missing='zero'", "--missing zero")
    if found:
        warnings.warn(
            f"zeros count as data, but {len(found)} of the {len(parts)} images looked at are exactly 0 at up to "
            f"{max(parts.values()):.0%} of the voxels of the mask, where others are not ({listing(found, 4)}); give "
            f"{advice} if they have no data there",
            stacklevel=3,
        )
