"""nilearn's function that saves a fitted model, under names like those of BIDS."""

import gzip
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from daskglm.design.contrasts import contrast_matrix
from daskglm.errors import (
    ContrastError,
    ParameterTypeError,
    UnknownParameterError,
    listing,
    nearest,
)
from daskglm.inference.clusters import get_clusters_table
from daskglm.inference.thresholding import threshold_stats_img
from daskglm.io.files import exists, join, read_bytes, write_bytes
from daskglm.models.first_level import FirstLevelModel
from daskglm.models.group import description
from daskglm.report.analysis import Thresholding
from daskglm.report.content_design import regressor_correlations
from daskglm.report.content_maps import any_tested
from daskglm.report.of_models import named_contrasts
from daskglm.report.pictures import contrast_picture, correlation_picture, design_picture
from daskglm.schema.names import bids_label, check_unique

# Maps of a contrast and how BIDS calls them; that of the statistic is "t" or "F".
_STATISTICS = {"effect_size": "effect", "effect_variance": "variance", "p_value": "p", "z_score": "z"}
_OF_REPORT = (
    "title", "bg_img", "threshold", "alpha", "cluster_threshold", "height_control", "two_sided", "min_distance",
    "plot_type", "cut_coords", "display_mode", "report_dims",
)  # fmt: skip
_SYMBOLS = {"-": " minus ", "+": " plus ", ">": " gt ", "<": " lt ", "_": " "}


def save_glm_to_bids(
    model: Any,
    contrasts: Any,
    first_level_contrast: Any = None,
    contrast_types: Mapping[str, str] | None = None,
    out_dir: str | os.PathLike[str] = ".",
    prefix: str | None = None,
    **options: Any,
) -> Any:
    """Save a fitted model under names like those of BIDS, as nilearn's function of this name.

    Parameters
    ----------
    model : FirstLevelModel or SecondLevelModel
        Fitted; a second level with ``minimize_memory=False``, for its residuals.
    contrasts : str, array, list of them, or dict
        Contrasts; a dict names them.
    first_level_contrast : str, optional
        Which maps, where the input of a second level named several.
    contrast_types : mapping of str to {"t", "F"}, optional
        Types of some of the contrasts.
    out_dir : path
        Folder or URL; files go to its folder ``sub-<label>``, or ``group`` for a second level.
    prefix : str, optional
        What names of files begin with. None: the BIDS entities of the runs' files, where all have such names.
    **options
        Further arguments of ``generate_report``.

    Returns
    -------
    FirstLevelModel or SecondLevelModel
        The same.

    Raises
    ------
    ContrastError, ParameterError
        Before anything is written.

    Notes
    -----
    ``*_clusters.tsv`` is of the z map; nilearn's is of the map of variances, the last that it wrote.
    """
    check_is_fitted(model)
    unknown = [name for name in options if name not in _OF_REPORT]
    if unknown:
        raise UnknownParameterError(
            f"further parameters are those of generate_report, {listing(_OF_REPORT, 20)}, but got {listing(unknown)}"
            f"{nearest(unknown[0], _OF_REPORT)}"
        )
    named = _checked(contrasts)
    labels = {name: _label(name) for name in named}
    check_unique(list(labels.values()), "contrasts have different names in file names, but they repeat")
    first_level = isinstance(model, FirstLevelModel)
    common, of_runs = _prefixes(model, prefix)
    subject = re.match(r"sub-[^_]+", common)
    below = "group" if not first_level else subject[0] if subject else None
    folder = os.fspath(out_dir) if below is None else join(os.fspath(out_dir), below)
    report = model.generate_report(named, first_level_contrast, **options)
    contents: dict[str, bytes] = {f"{common}report.html": report.html.encode()}
    for name, definition in named.items():
        kind = (contrast_types or {}).get(name)
        start = f"{common}contrast-{labels[name]}_"
        contents |= _contrast_files(model, definition, first_level_contrast, kind, start, options)
    contents |= _model_files(model, common, of_runs)
    designs = model.design_matrices_ if first_level else [model.design_matrix_]
    for start, design in zip(of_runs, designs, strict=True):
        contents |= _design_files(design, start, named, labels, model.t_r if first_level else None)
    _describe(os.fspath(out_dir), "first-level" if first_level else "group")
    for file, content in contents.items():
        write_bytes(join(folder, file), content)
    return model


def _checked(contrasts: Any) -> dict[str, Any]:
    """Contrasts by name; names are text, and definitions expressions or weights."""
    if isinstance(contrasts, Mapping):
        wrong = [name for name in contrasts if not isinstance(name, str)]
        if wrong:
            raise ParameterTypeError(f"names of contrasts are text, but these have {listing(map(repr, wrong))}")
    named = named_contrasts(contrasts)
    if not named:
        raise ContrastError("a model is saved with its contrasts, but there is none; give contrasts")
    wrong = [name for name, given in named.items() if not isinstance(given, str) and np.ndim(given) == 0]
    if wrong:
        raise ParameterTypeError(f"a contrast is an expression or weights, but {listing(wrong)} is neither")
    return named


def _label(name: str) -> str:
    """Nilearn's label of a contrast: words in camel case, the first in lower case, other capitals lost."""
    for symbol, word in _SYMBOLS.items():
        name = name.replace(symbol, word)
    first, *rest = name.split() or [""]
    return bids_label(" ".join([first.lower(), *(word.title() for word in rest)]))


def _prefixes(model: Any, prefix: Any) -> tuple[str, list[str]]:
    """What names of files begin with: of the whole model, and of each of its runs."""
    n_runs = len(model.fits_) if isinstance(model, FirstLevelModel) else 1
    if prefix is None and isinstance(model, FirstLevelModel):
        found = [_entities(run.source) for run in model._runs]
        if all(found):
            common = {key: value for key, value in found[0].items() if all(item.get(key) == value for item in found)}
            starts = [_joined(item) for item in found]
            return _joined(common), starts if len(set(starts)) == n_runs else _numbered(_joined(common), n_runs)
    given = prefix if isinstance(prefix, str) else ""
    start = f"{given}_" if given and not given.endswith("_") else given
    return start, [start] if n_runs == 1 else _numbered(start, n_runs)


def _numbered(start: str, n_runs: int) -> list[str]:
    """Prefixes of runs by number."""
    return [f"{start}run-{number + 1}_" for number in range(n_runs)]


def _entities(source: Any) -> dict[str, str]:
    """BIDS entities of a run's file, but for its description; none of an image in memory, or another name."""
    name = os.path.basename(source).split(".")[0] if isinstance(source, str) else ""
    pairs = [part.partition("-") for part in name.split("_")[:-1]]
    if not pairs or pairs[0][0] != "sub" or not all(value for _, _, value in pairs):
        return {}
    return {key: value for key, _, value in pairs if key != "desc"}


def _joined(entities: Mapping[str, str]) -> str:
    """Entities as the beginning of a name."""
    return "".join(f"{key}-{value}_" for key, value in entities.items())


def _contrast_files(
    model: Any, definition: Any, first_level_contrast: Any, kind: str | None, start: str, options: Mapping[str, Any]
) -> dict[str, bytes]:
    """Maps and clusters of a contrast."""
    chosen = (kind,) if isinstance(model, FirstLevelModel) else (first_level_contrast, kind)
    maps = model.compute_contrast(definition, *chosen, "all")
    kind = kind or ("F" if maps["effect_size"].ndim == 4 else "t")
    statistics = {**_STATISTICS, "stat": kind}
    files = {f"{start}stat-{name}_statmap.nii.gz": _image(maps[key]) for key, name in statistics.items()}
    names = ("threshold", "alpha", "cluster_threshold", "height_control", "two_sided", "min_distance")
    how = Thresholding(**{name: options[name] for name in names if name in options})
    table, level = _clusters(maps["z_score"], model.mask_img_, how)
    about: dict[str, Any] = {"Height control": str(how.height_control)}
    computed = {"alpha": how.alpha, "Threshold (computed)": level}
    about |= {"Threshold Z": level} if how.height_control is None else computed
    about |= {"Cluster size threshold (voxels)": how.cluster_threshold, "Minimum distance (mm)": how.min_distance}
    return files | {f"{start}clusters.tsv": _tsv(table), f"{start}clusters.json": _json(about)}


def _clusters(z_map: Any, mask: Any, how: Thresholding) -> tuple[pd.DataFrame, float | None]:
    """Clusters of a z map and the threshold; of no cluster where no voxel could be tested."""
    columns = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
    if not any_tested(z_map, mask):
        return pd.DataFrame(columns=columns), None
    unused = how.threshold if how.height_control is None else None
    kept, level = threshold_stats_img(
        z_map, mask, how.alpha, unused, how.height_control, how.cluster_threshold, how.two_sided
    )
    if not np.isfinite(level) or not np.any(np.asanyarray(kept.dataobj)):
        return pd.DataFrame(columns=columns), float(level)
    # What is kept is at the threshold or beyond it; the table wants it beyond.
    under = np.nextafter(abs(level), 0)
    table = get_clusters_table(kept, under, how.cluster_threshold, how.two_sided, how.min_distance)
    return table, float(level)


def _model_files(model: Any, common: str, of_runs: Sequence[str]) -> dict[str, bytes]:
    """Mask, parameters, residuals and explained variance."""
    parameters = {name: value if _is_plain(value) else str(value) for name, value in model.get_params().items()}
    files = {
        f"{common}mask.nii.gz": _image(model.mask_img_),
        f"{common}statmap.json": _json({"Description": "Maps of a linear model", "ModelParameters": parameters}),
    }
    residuals, explained = model.residuals_, model.r_square_
    for index, start in enumerate(of_runs):
        pair = (residuals[index], explained[index]) if isinstance(residuals, list) else (residuals, explained)
        for name, image in zip(("errorts", "rsquared"), pair, strict=True):
            files[f"{start}stat-{name}_statmap.nii.gz"] = _image(image)
    return files


def _design_files(
    design: pd.DataFrame, start: str, contrasts: Mapping[str, Any], labels: Mapping[str, str], t_r: float | None
) -> dict[str, bytes]:
    """A design as a table and in pictures, with the weights of the contrasts that it has."""
    files = {f"{start}design.tsv": _tsv(design), f"{start}design.png": design_picture(design)}
    files[f"{start}design.json"] = _json({"RepetitionTime": t_r})
    if design.shape[1] > 1:
        files[f"{start}corrdesign.png"] = correlation_picture(regressor_correlations(design))
    columns = [str(name) for name in design.columns]
    for name, definition in contrasts.items():
        try:
            weights = contrast_matrix(definition, columns)
        except ContrastError:  # of other runs, or one a run
            continue
        files[f"{start}contrast-{labels[name]}_design.png"] = contrast_picture(weights, design)
    return files


def _describe(folder: str, kind: str) -> None:
    """Say in dataset_description.json what made the files, beside who made others."""
    path = join(folder, "dataset_description.json")
    ours = description(kind)
    if exists(path):
        found = json.loads(read_bytes(path))
        ours = {**found, "GeneratedBy": [*found.get("GeneratedBy", []), *ours["GeneratedBy"]]}
    write_bytes(path, _json(ours))


def _image(image: Any) -> bytes:
    """An image as .nii.gz, the same bytes each time."""
    return gzip.compress(image.to_bytes(), mtime=0)


def _tsv(table: pd.DataFrame) -> bytes:
    return table.to_csv(sep="\t", index=False, na_rep="n/a").encode()


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=4, sort_keys=True, default=str, ensure_ascii=False).encode()


def _is_plain(value: Any) -> bool:
    """Whether JSON has it."""
    return value is None or isinstance(value, (bool, int, float, str))
