"""Fitted first-level models as the images of a second level."""

import warnings
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from daskglm.design.contrasts import is_text
from daskglm.errors import ContrastError, ImageTypeError, listing
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.fixed_effects import check_same_names, run_weights
from daskglm.models.inputs import Loaded, load_images
from daskglm.models.options import Options
from daskglm.schema.datasets import images_dataset
from daskglm.schema.names import check_unique


def are_models(given: Any) -> bool:
    """Tell whether an input is a list of first-level models.

    Parameters
    ----------
    given : object
        Input of a second level.

    Returns
    -------
    bool
    """
    return isinstance(given, (list, tuple)) and bool(given) and all(isinstance(x, FirstLevelModel) for x in given)


def subjects_of_models(models: Sequence[FirstLevelModel]) -> Loaded:
    """The subjects of models, as images that nothing is known of yet but their names and grid.

    Parameters
    ----------
    models : sequence of FirstLevelModel
        Fitted, of different subjects on one grid.

    Returns
    -------
    Loaded
        For making the design; the images are those of a contrast, see :func:`effects_of_models`.

    Raises
    ------
    ImageError, SpaceError, NotFittedError
        Where there are fewer than two, subjects repeat, or the grids differ.
    """
    if len(models) < 2:
        raise ImageTypeError("a model across subjects needs at least two first-level models, but there is 1")
    for model in models:
        check_is_fitted(model)
    labels = [model.subject_label for model in models]
    known = all(label is not None for label in labels)
    again = len(models) - len({id(model) for model in models})
    if again:
        known = False
        warnings.warn(
            f"{again} of {len(models)} first-level models are given more than once, so that the same data count as "
            "independent subjects; give each model once",
            stacklevel=4,
        )
    names = [str(label) for label in labels] if known else [f"model-{k + 1}" for k in range(len(models))]
    check_unique(names, "first-level models are of different subjects, but subject_label repeats")
    space = models[0].space_
    for name, model in zip(names, models, strict=True):
        space.check_same_grid(model.space_.shape, model.space_.affine, f"the model of {name}")
    nothing = da.zeros((len(models), space.voxels.size), dtype=np.float32)
    return Loaded(images_dataset(nothing, names, space).assign_attrs(named_by="id" if known else "order"), [])


def contrast_key(contrast: Any) -> Any:
    """A first-level contrast as a key: weights become a tuple, those with names an expression.

    Parameters
    ----------
    contrast : str, array, Series or None
        First-level contrast.

    Returns
    -------
    str, tuple or None

    Raises
    ------
    ContrastError
        Where it has several rows.
    """
    if contrast is None or isinstance(contrast, (str, tuple)):
        return contrast
    if isinstance(contrast, pd.Series) and all(isinstance(name, str) for name in contrast.index):
        return " + ".join(f"{float(weight)!r} * `{name}`" for name, weight in contrast.items() if weight)
    if np.ndim(contrast) == 2 and np.shape(contrast)[0] == 1:
        contrast = np.asarray(contrast)[0]
    if np.ndim(contrast) != 1:
        raise ContrastError(f"a first-level contrast has one row of weights, but this has shape {np.shape(contrast)}")
    return tuple(np.asarray(contrast).tolist())


def effects_of_models(
    models: Sequence[FirstLevelModel], contrast: Any, options: Options, names: Sequence[str]
) -> Loaded:
    """Images of the effect of a contrast in each model.

    Parameters
    ----------
    models : sequence of FirstLevelModel
        Fitted.
    contrast : str, tuple of float or None
        First-level contrast; weights are of the same regressors in every model.
    options : Options
        Mask and coverage of the second level; voxels that a model does not have are missing in its image.
    names : sequence of str
        Names of the subjects.

    Returns
    -------
    Loaded

    Raises
    ------
    ContrastError
        Where no contrast is named, it maps to several effects, or some models lack it; these are named.
    """
    if contrast is None:
        raise ContrastError(
            "first-level models have no maps of their own; name first_level_contrast, an expression of their "
            f"regressors {listing(map(str, models[0].design_matrices_[0].columns))}"
        )
    if not is_text(contrast):
        _check_same_weights(models, contrast, names)
    images = []
    lacking: dict[str, ContrastError] = {}
    for model, name in zip(models, names, strict=True):
        try:
            effect = model.contrast_maps(contrast)["effect_size"]
        except ContrastError as error:
            lacking[name] = error
            continue
        if effect.sizes["component"] > 1:
            raise ContrastError(f"a first-level contrast has one effect a subject, but {contrast!r} is an F contrast")
        images.append(model.space_.to_image(effect.values[0, 0], outside=np.nan))
    if lacking:
        first, why = next(iter(lacking.items()))
        raise ContrastError(
            f"a first-level contrast must exist in every subject, but {contrast!r} cannot be made for "
            f"{listing(lacking)} ({len(lacking)} of {len(models)}); of {first}: {why}"
        )
    loaded = load_images(images, options)
    named = loaded.images.assign_coords(sample=("sample", np.array(names, dtype=object)))
    return Loaded(named.assign_attrs(named_by="order" if models[0].subject_label is None else "id"), None)


def _check_same_weights(models: Sequence[FirstLevelModel], contrast: Any, names: Sequence[str]) -> None:
    """Raise where weights by position are of other regressors in one model than in another."""
    weights = [run_weights(model.fits_, contrast)[0] for model in models]
    columns = [[str(name) for name in model.design_matrices_[0].columns] for model in models]
    check_same_names(weights, columns, [f"the model of {name}" for name in names])
