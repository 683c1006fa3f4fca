"""What notebooks show of a model or a dataset: a few facts as a table that is readable on any background."""

import inspect
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import pandas as pd
import xarray as xr

from daskglm.errors import listing
from daskglm.graph.compute import dashboard_link
from daskglm.io.provenance import redact
from daskglm.kernels.basis import is_estimable
from daskglm.models.functional import basis_of
from daskglm.schema.space import VolumeSpace

Facts = Sequence[tuple[str, str]]

_SHOWN = 12
# The colours are those of the page around it, so that light and dark notebooks are the same to it.
_STYLE = """
.daskglm { color: inherit; font-size: 0.9em; line-height: 1.4; max-width: 60em; overflow-x: auto; }
.daskglm table { border-collapse: collapse; background: transparent; margin: 0 0 0.4em 0; }
.daskglm caption { caption-side: top; color: inherit; font-weight: bold; text-align: left; padding: 0.2em 0; }
.daskglm th, .daskglm td { color: inherit; background: transparent; border: 0; padding: 0.1em 1.2em 0.1em 0;
  text-align: left; vertical-align: top; overflow-wrap: anywhere; white-space: normal; }
.daskglm th { font-weight: normal; opacity: 0.75; white-space: nowrap; }
.daskglm .daskglm-changed th { font-weight: bold; opacity: 1; }
.daskglm a { color: inherit; text-decoration: underline; }
.daskglm summary { cursor: pointer; }
"""


def facts_html(title: str, facts: Facts, parameters: Sequence[tuple[str, str, bool]] = ()) -> str:
    """Facts as HTML for a notebook, with a link to the dashboard of the active cluster.

    No name in them is taken for HTML, and no secret in them is shown.

    Parameters
    ----------
    title : str
        What they are about.
    facts : sequence of (str, str)
        Name and value.
    parameters : sequence of (str, str, bool)
        Name, value and whether it was changed, of parameters: folded away.

    Returns
    -------
    str
    """
    top = Element("div", {"class": "daskglm"})
    SubElement(top, "style").text = _STYLE
    table = SubElement(top, "table")
    SubElement(table, "caption").text = _text(title)
    body = SubElement(table, "tbody")
    for name, value in facts:
        _add_row(body, name, value)
    if link := _text(dashboard_link() or ""):
        cell = _add_row(body, "dashboard", "")
        SubElement(cell, "a", {"href": link, "rel": "noreferrer"}).text = link
    if parameters:
        folded = SubElement(top, "details")
        SubElement(folded, "summary").text = "Parameters"
        body = SubElement(SubElement(folded, "table"), "tbody")
        for name, value, changed in parameters:
            _add_row(body, name, value, changed)
    # Text becomes HTML here, and nowhere by hand.
    return tostring(top, encoding="unicode", method="html")


def model_html(model: Any) -> str:
    """A model as HTML for a notebook: what it was fitted to, what can be asked of it, its parameters.

    Parameters
    ----------
    model : FirstLevelModel or SecondLevelModel
        Fitted or not.

    Returns
    -------
    str
    """
    defaults = inspect.signature(type(model).__init__).parameters
    values = model.get_params(deep=False)
    parameters = [(name, short(value), repr(value) != repr(defaults[name].default)) for name, value in values.items()]
    changed = ", ".join(f"{name}={value}" for name, value, is_changed in parameters if is_changed)
    facts = [*model_facts(model), *([("set", changed)] if changed else [])]
    state = "fitted" if model.__sklearn_is_fitted__() else "not fitted"
    return facts_html(f"{type(model).__name__}, {state}", facts, parameters)


def model_facts(model: Any) -> Facts:
    """What a model was fitted to and what can be asked of it; nothing is read for it.

    Parameters
    ----------
    model : FirstLevelModel or SecondLevelModel
        Fitted or not.

    Returns
    -------
    sequence of (str, str)
        None of a model that is not fitted.
    """
    if not model.__sklearn_is_fitted__():
        return []
    if hasattr(model, "design_matrices_"):
        return _first_level_facts(model)
    fits = {name: fit for name, fit in model.fits_.items() if name is not None}
    design = model.design_matrix_
    facts = [("images", f"{len(design):,}{_of_contrasts(fits)}")]
    if "formula" in design.attrs:
        facts.append(("formula", design.attrs["formula"]))
    facts.append(("design", _regressors(design)))
    if model.fits_:
        fit = next(iter(model.fits_.values()))
        facts += [("observations", _counts(fit)), ("contrasts", contrasts_text(fit))]
    else:
        facts.append(("contrasts", "name a first_level_contrast, whose maps are then fitted"))
    return [*facts, ("voxels", voxels_text(model.space_)), *_chunk_facts(model.fits_.values())]


def _first_level_facts(model: Any) -> list[tuple[str, str]]:
    """What the runs of a subject are and what can be asked of them."""
    designs, fits = model.design_matrices_, model.fits_
    volumes = listing([f"{len(design):,}" for design in designs], _SHOWN)
    facts = [("runs", f"{len(designs):,} of {volumes} volumes")]
    if model.subject_label is not None:
        facts.insert(0, ("subject", str(model.subject_label)))
    if len({tuple(map(str, design.columns)) for design in designs}) == 1:
        facts += [("design", _regressors(designs[0])), ("contrasts", contrasts_text(fits[0]))]
    else:
        for number, (design, fit) in enumerate(zip(designs, fits, strict=True), 1):
            of_run = [("design", _regressors(design)), ("contrasts", contrasts_text(fit))]
            facts += [(f"{name} of run {number}", text) for name, text in of_run]
    return [*facts, ("voxels", voxels_text(model.space_)), *_chunk_facts(fits[:1])]


def contrasts_text(fit: xr.Dataset) -> str:
    """Which contrasts can be asked of a fit.

    Parameters
    ----------
    fit : xarray.Dataset
        A fit dataset.

    Returns
    -------
    str

    Notes
    -----
    A regressor can be asked for alone where the design determines it.
    """
    columns = [str(name) for name in fit["regressor"].values]
    basis = basis_of(fit)
    alone = [is_estimable(row[None], basis) for row in np.eye(len(columns))]
    known = [name for name, estimable in zip(columns, alone, strict=True) if estimable]
    refused = [name for name, estimable in zip(columns, alone, strict=True) if not estimable]
    terms = [f"{name} (F)" for name, names in fit.attrs.get("terms", {}).items() if len(names) > 1]
    text = f"expressions of regressors, such as {' or '.join([*known[:1], *_difference(known)])}" if known else ""
    parts = [text, listing(terms, _SHOWN), f"not alone: {listing(refused, _SHOWN)}" if refused else ""]
    return "; ".join(part for part in parts if part)


def voxels_text(space: VolumeSpace) -> str:
    """How many voxels there are, of which grid.

    Parameters
    ----------
    space : VolumeSpace
        Where they are.

    Returns
    -------
    str

    Examples
    --------
    >>> import nibabel as nib, numpy as np
    >>> voxels_text(VolumeSpace.from_image(nib.Nifti1Image(np.zeros((4, 5, 6)), np.diag([2, 2, 2.5, 1]))))
    '120 of 4 x 5 x 6, 2 x 2 x 2.5 mm'
    """
    sizes = " x ".join(f"{size:.4g}" for size in np.linalg.norm(space.affine[:3, :3], axis=0))
    return f"{space.voxels.size:,} of {' x '.join(map(str, space.shape))}, {sizes} mm"


def short(value: Any) -> str:
    """A value on one line.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    str
    """
    written = reprlib.Repr()
    written.maxstring = written.maxother = 80
    return " ".join(written.repr(value).split())


def _regressors(design: pd.DataFrame) -> str:
    """How many regressors a design has, and which."""
    return f"{design.shape[1]:,} regressors: {listing(design.columns, _SHOWN)}"


def _of_contrasts(fits: dict[str, xr.Dataset]) -> str:
    """Of which first-level contrasts the images are."""
    return f" of each first-level contrast: {listing(fits, _SHOWN)}" if fits else ""


def _counts(fit: xr.Dataset) -> str:
    """How many images the voxels have that could be fitted."""
    counts = fit["n"].values[np.isfinite(fit["residual_variance"].values)]
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,} at every voxel" if low == high else f"{low:,} to {high:,} a voxel"


def _chunk_facts(fits: Iterable[xr.Dataset]) -> Facts:
    """In how many parts the first of some fits is held."""
    for fit in fits:
        n_chunks = fit.sizes["block"]
        return [("chunks", f"{n_chunks:,} of up to {-(-fit.sizes['voxel'] // n_chunks):,} voxels")]
    return []


def _difference(names: list[str]) -> list[str]:
    """The difference of the first two names, as a contrast writes it."""
    return [f"{names[0]} - {names[1]}"] if len(names) > 1 and all(name.isidentifier() for name in names[:2]) else []


def _add_row(body: Element, name: str, value: str, changed: bool = False) -> Element:
    """Add a row to a table; return the cell of its value."""
    row = SubElement(body, "tr", {"class": "daskglm-changed"} if changed else {})
    SubElement(row, "th", {"scope": "row"}).text = _text(name)
    cell = SubElement(row, "td")
    cell.text = _text(value)
    return cell


def _text(text: str) -> str:
    """Text without secrets."""
    return redact(str(text))
