"""Reports of fitted models."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from daskglm.design.contrasts import contrast_matrix
from daskglm.design.matrix import design_array
from daskglm.errors import DaskGLMError, listing
from daskglm.graph.compute import compute
from daskglm.io.provenance import software
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.fixed_effects import run_weights
from daskglm.models.functional import compute_contrasts, map_image
from daskglm.models.permutation import contrast_of, images_of
from daskglm.models.second_level import SecondLevelModel
from daskglm.report.analysis import Analysis, Check, ContrastMap, Drawing, Thresholding
from daskglm.report.content import build_document
from daskglm.report.document import Document, Section, Text
from daskglm.report.methods import (
    contrast_sentences,
    design_text,
    missing_sentence,
    model_sentences,
    run_sentences,
    scaling_sentence,
    smoothing_sentence,
)
from daskglm.report.page import Report
from daskglm.report.self_check import Fitted, check_group, check_run
from daskglm.schema.datasets import sample_names


def report_of_model(
    model: Any, contrasts: Any, first_level_contrast: str | None, title: str | None, how: Thresholding, drawing: Drawing
) -> Report:
    """Report a fitted model.

    Parameters
    ----------
    model : FirstLevelModel or SecondLevelModel
        Fitted.
    contrasts, first_level_contrast, title
        As of ``generate_report``.
    how : Thresholding
        What of the maps is shown.
    drawing : Drawing
        How they are drawn.

    Returns
    -------
    Report

    Raises
    ------
    DaskGLMError
        As ``generate_report``.
    """
    definitions = named_contrasts(contrasts)
    if isinstance(model, SecondLevelModel):
        analysis = _second_level(model, definitions, first_level_contrast)
    else:
        if first_level_contrast is not None:
            warnings.warn("first_level_contrast is ignored: this is a first-level model", stacklevel=3)
        analysis = _first_level(model, definitions)
    return Report(build_document(analysis, how, drawing, title))


def empty_report(title: str) -> Report:
    """Report a model that is not fitted: that it is not, as nilearn does.

    Parameters
    ----------
    title : str
        Of the page.

    Returns
    -------
    Report

    Warns
    -----
    UserWarning
        The same.
    """
    message = "This estimator has not been fit yet. There is nothing to report; call its fit first."
    warnings.warn(message, stacklevel=3)
    return Report(Document(title, [], [Section("Warnings", [Text(message)])]))


def make_glm_report(model: Any, contrasts: Any = None, *arguments: Any, **options: Any) -> Report:
    """Report a fitted model: the old name of its method ``generate_report``.

    Parameters
    ----------
    model : FirstLevelModel or SecondLevelModel
        Fitted.
    contrasts : str, array, list of them, or dict, optional
        Contrasts.
    *arguments, **options
        As of ``generate_report``.

    Returns
    -------
    Report

    Warns
    -----
    FutureWarning
        As nilearn does, which drops the function.
    """
    warnings.warn(
        "make_glm_report is deprecated, as in nilearn; use model.generate_report", FutureWarning, stacklevel=2
    )
    report: Report = model.generate_report(contrasts, *arguments, **options)
    return report


def named_contrasts(contrasts: Any) -> dict[str, Any]:
    """Contrasts by name, from all that nilearn takes.

    Parameters
    ----------
    contrasts : str, array, list of them, dict or None
        A list of numbers is one contrast; of other things, several.

    Returns
    -------
    dict of str to str or array
        Empty for None.

    Examples
    --------
    >>> named_contrasts(["a", "a - b"]), named_contrasts([1, -1])
    ({'a': 'a', 'a - b': 'a - b'}, {'[1, -1]': [1, -1]})
    """
    if contrasts is None:
        return {}
    if isinstance(contrasts, Mapping):
        return {str(name): definition for name, definition in contrasts.items()}
    if not isinstance(contrasts, str) and not len(contrasts):
        return {}
    is_one = isinstance(contrasts, (str, pd.Series, pd.DataFrame)) or np.ndim(contrasts[0]) == 0
    several = [contrasts] if is_one and not _are_texts(contrasts) else list(contrasts)
    return {str(definition): definition for definition in several}


def _are_texts(contrasts: Any) -> bool:
    """Whether contrasts are several expressions."""
    return isinstance(contrasts, (list, tuple, np.ndarray)) and isinstance(contrasts[0], str)


def _second_level(
    model: SecondLevelModel, definitions: Mapping[str, Any], first_level_contrast: str | None
) -> Analysis:
    """A group."""
    fit, design = model._fit_of(first_level_contrast), model.design_matrix_
    maps = xr.Dataset()
    if definitions:
        definitions = {name: contrast_of(design, definition) for name, definition in definitions.items()}
        (maps,) = compute(compute_contrasts(fit, definitions), n_jobs=model.n_jobs, here=True)
    kinds = {name: str(maps["stat_type"].sel(contrast=name).values) for name in definitions}
    texts = {name: (_text(given), kinds[name]) for name, given in definitions.items()}
    columns = [str(name) for name in design.columns]
    rows = ("Rows of the design matched", str(design.attrs.get("rows", "by order")))
    facts = [
        ("Images", f"{len(design):,}"),
        rows,
        ("Voxels", f"{model.n_elements_:,}"),
        ("Regressors", str(len(columns))),
    ]
    facts += [("First-level contrast", str(first_level_contrast))] if first_level_contrast is not None else []
    weights = {name: contrast_matrix(given, columns, fit.attrs["terms"]) for name, given in definitions.items()}
    return Analysis(
        kind="group",
        title="Second-level model",
        facts=[*facts, ("Contrasts", str(len(definitions)))],
        methods=[
            *smoothing_sentence(model.smoothing_fwhm), *model_sentences(len(design), columns, None, texts),
            missing_sentence(model.missing, model.min_coverage),
        ],
        citations=["friston1994"],
        designs={"": design},
        maps=[ContrastMap(name, text, kind, map_image(maps, name, "z_score")) for name, (text, kind) in texts.items()],
        mask=model.mask_img_,
        counts=model.space_.to_image(np.asarray(fit["n"].values, dtype=np.int32)),
        n_images=len(design),
        record={"software": software()},
        check=partial(_check_group, model, first_level_contrast, _fitted(maps, weights)) if definitions else None,
    )  # fmt: skip


def _check_group(model: SecondLevelModel, first_level_contrast: str | None, fitted: Mapping[str, Fitted]) -> Check:
    """Fit voxels again, from the images that the model was given."""
    options = replace(model._options(), mask_img=model.mask_img_)
    try:
        loaded = images_of(model.second_level_input_, first_level_contrast, options)
    except (DaskGLMError, OSError) as error:
        return Check(why_not=f"the images cannot be read again ({error})")
    if sample_names(loaded.images) != model._names:
        return Check(why_not="the images are not those that were fitted any more")
    return check_group(loaded.images, design_array(model.design_matrix_), fitted)


def _first_level(model: FirstLevelModel, definitions: Mapping[str, Any]) -> Analysis:
    """The runs of a subject."""
    designs = {f"run {index + 1}": design for index, design in enumerate(model.design_matrices_)}
    maps = {name: model.contrast_maps(given) for name, given in definitions.items()}
    texts = {name: (_text(given), str(maps[name]["stat_type"].values[0])) for name, given in definitions.items()}
    volumes = sum(map(len, designs.values()))
    facts = [("Runs", str(len(designs))), ("Volumes", f"{volumes:,}"), ("Voxels", f"{model.n_elements_:,}")]
    facts = [("Subject", str(model.subject_label)), *facts] if model.subject_label is not None else facts
    motion = pd.DataFrame(
        {
            "run": list(designs), "volumes": list(map(len, designs.values())),
            "regressors": [design.shape[1] for design in designs.values()],
            "degrees of freedom": [float(np.nanmax(fit["degrees_of_freedom"].values)) for fit in model.fits_],
        }
    )  # fmt: skip
    return Analysis(
        kind="first-level",
        title="First-level model",
        facts=[*facts, ("Contrasts", str(len(definitions)))],
        methods=[
            *smoothing_sentence(model.smoothing_fwhm),
            *run_sentences(len(designs), volumes, _design_text(model), str(model.noise_model)),
            *scaling_sentence(
                model._scaled.percent_of, model._scaled.standardize, any(run.by_volume for run in model._runs)
            ),
            *contrast_sentences(texts),
        ],
        citations=["friston1994", "worsley1995"] if model.noise_model != "ols" else ["friston1994"],
        designs=designs,
        maps=[
            ContrastMap(name, text, kind, map_image(maps[name], str(maps[name]["contrast"].values[0]), "z_score"))
            for name, (text, kind) in texts.items()
        ],
        mask=model.mask_img_,
        motion=motion,
        record={"software": software()},
        check=partial(_check_run, model, definitions) if definitions else None,
    )  # fmt: skip


def _check_run(model: FirstLevelModel, definitions: Mapping[str, Any]) -> Check:
    """Fit voxels of the first run again."""
    fit, fitted = model.fits_[0], {}
    with warnings.catch_warnings():
        # What is left out of a run was told when the contrast was mapped.
        warnings.simplefilter("ignore")
        weights = {name: run_weights(model.fits_, given)[0] for name, given in definitions.items()}
    known = {name: matrix for name, matrix in weights.items() if matrix is not None}
    if not known:
        return Check(why_not="the first run has none of the contrasts")
    (maps,) = compute(compute_contrasts(fit, known), n_jobs=model.n_jobs)
    fitted = _fitted(maps, known)
    return check_run(model._runs[0], design_array(model.design_matrices_[0]), model._noise, model._scaled, fitted)


def _fitted(maps: xr.Dataset, weights: Mapping[str, NDArray[np.float64]]) -> dict[str, Fitted]:
    """Maps of contrasts, as the self-check takes them; of F, effects are nilearn's whitened ones: not compared."""
    found = {}
    for name, matrix in weights.items():
        chosen = maps.sel(contrast=name)
        kind = str(chosen["stat_type"].values)
        effect = None if kind == "F" else chosen["effect_size"].values[0]
        found[name] = Fitted(matrix, effect, chosen["effect_variance"].values, chosen["stat"].values, kind)
    return found


def _design_text(model: FirstLevelModel) -> str:
    """How the designs were made."""
    if model._made_of is None:
        return f"those of the design matrices that were given: {listing(model.design_matrices_[0].columns, 30)}"
    events, confounds = model._made_of
    return design_text(model.get_params(), events, "confounds" if confounds else "")


def _text(definition: Any) -> str:
    """A contrast's definition."""
    if isinstance(definition, (np.ndarray, pd.Series, pd.DataFrame)):
        definition = np.asarray(definition).tolist()
    return definition if isinstance(definition, str) else str(definition)
