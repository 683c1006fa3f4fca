"""A study on one page: the contrasts of many result folders, in a table that is sorted and searched."""

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlsplit

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from daskglm.errors import ParameterError
from daskglm.io.files import each, exists, is_url, join, list_names, read_bytes
from daskglm.io.nifti import read_values
from daskglm.io.provenance import redact
from daskglm.io.results import PROVENANCE
from daskglm.models.plan import count_text
from daskglm.report.page import cell_text, render, write_page
from daskglm.schema.names import bids_label

# Heading of a column, and whether it holds numbers.
_COLUMNS = {
    "kind": ("Kind", False),
    "n": ("n", True),
    "statistic": ("Statistic", False),
    "extreme": ("Extreme", True),
    "z": ("z", True),
    "place": ("At x, y, z (mm)", False),
    "p": ("Corrected p", True),
    "voxels": ("Voxels at 5%", True),
}
_TEXT = ("contrast", "statistic", "stat_type")
# Of all pictures together, as bytes of the page: beyond it the page would open slowly.
_PICTURES = 5_000_000
# Pictures are coloured beyond this value of the statistic, and strongest from the other on.
_COLOURED, _STRONGEST = 3.09, 8.0
# Most voxels along an axis of a picture.
_VOXELS = 64


@dataclass
class _Row:
    """A contrast, by one statistic."""

    folder: str
    contrast: str
    cells: Mapping[str, object]
    map: str = ""
    analysis: str = ""
    link: str = ""
    picture: bytes = b""


def study_report(folders: Sequence[str], output: str, title: str = "Study") -> str:
    """Write one page that lists the contrasts of many analyses, with their peaks and links to their reports.

    Parameters
    ----------
    folders : sequence of str
        Result folders of ``daskglm group``, ``permute`` or ``first-level``, paths or URLs; one without a
        ``report.html`` gets rows without a link.
    output : str
        The page to write (``study.html``), path or URL; links are relative to it.
    title : str
        Heading of the page.

    Returns
    -------
    str
        `output`.

    Raises
    ------
    MissingDependencyError
        Where jinja2 is absent.
    ParameterError
        Where there are no folders, or one holds no results of daskglm.
    OutputError
        Where the page cannot be written.
    """
    folders = list(dict.fromkeys(os.fspath(folder).rstrip("/") or "/" for folder in folders))
    if not folders:
        raise ParameterError("a study is of at least one result folder, but none was given; name one or more")
    rows = [row for found in each(_rows, folders) for row in found]
    names, links = _short_names(folders), dict(zip(folders, each(_reports(output), folders), strict=True))
    for row in rows:
        row.analysis, row.link = redact(names[row.folder]), links[row.folder]
    _draw(rows)
    shown = [name for name in _COLUMNS if any(row.cells.get(name) not in (None, "") for row in rows)]
    n_contrasts = len({(row.folder, row.contrast) for row in rows})
    page = render(
        "study.html",
        title=title,
        summary=f"{count_text(n_contrasts, 'contrast')} in {count_text(len(folders), 'result folder')}.",
        columns=[("Result", False), ("Contrast", False), *(_COLUMNS[name] for name in shown)],
        rows=[(row, [_cell(name, row.cells.get(name)) for name in shown]) for row in rows],
        pictures=any(row.picture for row in rows),
    )
    write_page(output, page)
    return output


def _rows(folder: str) -> list[_Row]:
    """What a result folder says of its contrasts."""
    for name, read in ((PROVENANCE, _group_rows), ("first_level.json", _first_level_rows)):
        if not exists(join(folder, name)):
            continue
        try:
            return read(folder, json.loads(read_bytes(join(folder, name))))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParameterError(
                f"{join(folder, name)} is not as daskglm writes it ({error!r}); make the results again, or leave "
                "this folder out"
            ) from error
    raise ParameterError(
        f"a study is made of result folders of daskglm, but {folder} has no {PROVENANCE} and no first_level.json; "
        "give the output of daskglm group, permute or first-level"
    )


def _group_rows(folder: str, said: Mapping[str, Any]) -> list[_Row]:
    """Contrasts of a group or permutation analysis."""
    contrasts, n, held = said["parameters"]["contrasts"], len(said["samples"]), set(said["files"])
    tested = "thresholds.tsv" in held
    table = _table(join(folder, "thresholds.tsv" if tested else "peaks.tsv"))
    rows = []
    for contrast in contrasts:
        found = table[table["contrast"] == contrast]
        start = f"contrast-{bids_label(contrast)}_stat-"
        maps = [f"{start}{stat}_statmap.nii.gz" for stat in ("z", "t", "F")]
        drawn = next((join(folder, name) for name in maps if name in held), "")
        if tested:
            cells: list[dict[str, object]] = [
                {"kind": "permutations", "n": n, "statistic": row.statistic, "extreme": row.observed_maximum,
                 "p": row.smallest_p, "voxels": row.voxels}
                for row in found.itertuples()
            ]  # fmt: skip
        else:
            cells = [{"kind": "group", "n": n, **_peak(found)}]
        # The picture is that of the voxels' statistic, which comes first.
        rows += [_Row(folder, contrast, values, drawn if not index else "") for index, values in enumerate(cells)]
    return rows


def _first_level_rows(folder: str, said: Mapping[str, Any]) -> list[_Row]:
    """Contrasts of a first-level analysis, of which each subject has maps."""
    n = sum(name.startswith("sub-") for name in list_names(folder))
    return [_Row(folder, contrast, {"kind": "first level", "n": n}) for contrast in said["contrasts"]]


def _peak(peaks: pd.DataFrame) -> dict[str, object]:
    """The strongest of the peaks of a contrast."""
    peaks = peaks[peaks["z_score"].notna()]
    if peaks.empty:
        return {}
    peak = peaks.loc[peaks["z_score"].abs().idxmax()]
    place = ", ".join(cell_text(float(peak[axis])) for axis in "xyz")
    return {"statistic": peak["stat_type"], "extreme": peak["stat"], "z": peak["z_score"], "place": place}


def _table(path: str) -> pd.DataFrame:
    """A table of results: the names in it stay text, whatever they look like."""
    table = pd.read_csv(BytesIO(read_bytes(path)), sep="\t", dtype=str, keep_default_na=False)
    numbers = [name for name in table.columns if name not in _TEXT]
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})


def _cell(name: str, value: object) -> tuple[str, str | None]:
    """What a cell shows, and for numbers what it is sorted by."""
    if not _COLUMNS[name][1]:
        return cell_text(value), None
    number = np.nan if value is None else float(str(value))
    if np.isnan(number):
        return "", ""
    return cell_text(int(number) if name in ("n", "voxels") else number), json.dumps(number)


def _short_names(folders: Sequence[str]) -> dict[str, str]:
    """Folders without what all of them begin with."""
    parts = [
        (folder if is_url(folder) else os.path.abspath(folder).replace(os.sep, "/")).split("/") for folder in folders
    ]
    levels = list(zip(*(names[:-1] for names in parts), strict=False))
    common = next((depth for depth, level in enumerate(levels) if len(set(level)) > 1), len(levels))
    return {folder: "/".join(names[common:]) for folder, names in zip(folders, parts, strict=True)}


def _reports(page: str) -> Any:
    """A function from a folder to the link from the page to its report, empty where it has none."""

    def link(folder: str) -> str:
        """Link to the report of a folder."""
        report = join(folder, "report.html")
        if not exists(report):
            return ""
        if not is_url(report) and not is_url(page):
            # Relative links outlive a move of the study, and a colon in a name makes no scheme of it.
            relative = os.path.relpath(report, os.path.dirname(os.path.abspath(page)))
            return quote(relative.replace(os.sep, "/"))
        there, here = urlsplit(report), urlsplit(page)
        if (there.scheme, there.netloc) == (here.scheme, here.netloc):
            return quote(posixpath.relpath(there.path, posixpath.dirname(here.path)))
        # A link that carries a secret is none to write down.
        return quote(report, safe=":/") if there.scheme in ("http", "https") and report == redact(report) else ""

    return link


def _draw(rows: Sequence[_Row]) -> None:
    """Give the rows their pictures, unless all together are too much; maps behind URLs would take long to come."""
    pictures = {row.map: _picture(row.map) for row in rows if row.map and not is_url(row.map)}
    if sum(map(len, pictures.values())) * 4 / 3 <= _PICTURES:
        for row in rows:
            row.picture = pictures.get(row.map, b"")


def _picture(path: str) -> bytes:
    """A small PNG: the value of largest size along each line through the brain, from the side, front and top."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    header, values = read_values(path)
    if len(header.shape) != 3:
        return b""
    volume = values[0].reshape(header.shape, order="F")
    volume = _smaller(nib.orientations.apply_orientation(volume, nib.io_orientation(header.affine)))
    views = [_extreme(np.moveaxis(volume, axis, -1)).T for axis in range(3)]
    height = max(len(view) for view in views)
    padded = [np.pad(view, ((0, height - len(view)), (0, 3)), constant_values=np.nan) for view in views]
    # Rows of a picture go down.
    shown = np.hstack(padded)[::-1]
    colours = colormaps["RdBu_r"]((shown / _STRONGEST + 1) / 2)
    colours[np.abs(shown) < _COLOURED] = (0.9, 0.9, 0.9, 1)
    colours[np.isnan(shown)] = (1, 1, 1, 1)
    file = BytesIO()
    imsave(file, colours, format="png")
    return file.getvalue()


def _smaller(volume: NDArray[Any]) -> NDArray[np.float64]:
    """A volume of few voxels, each with the value of largest size among those that it is made of; NaN outside."""
    values = np.where(np.isfinite(volume) & (volume != 0), volume, np.nan).astype(np.float64)
    step = -(-max(values.shape) // _VOXELS)
    values = np.pad(values, [(0, -length % step) for length in values.shape], constant_values=np.nan)
    x, y, z = (length // step for length in values.shape)
    blocks = values.reshape(x, step, y, step, z, step).transpose(0, 2, 4, 1, 3, 5)
    return _extreme(blocks.reshape(x, y, z, -1))


def _extreme(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of largest size along the last axis; NaN where there is none."""
    place = np.nan_to_num(np.abs(values), nan=-1).argmax(-1)
    return np.take_along_axis(values, place[..., None], -1)[..., 0]
