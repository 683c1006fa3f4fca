"""A cohort with a known effect, from files to maps on a local cluster."""

import os
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from daskglm.cluster import connect
from daskglm.errors import OutputError
from daskglm.io.files import write_bytes
from daskglm.io.nifti import write_image
from daskglm.io.results import prepare_output
from daskglm.models.convert import convert
from daskglm.models.group import GroupResult, group_analysis
from daskglm.report.figures import draw_demo
from daskglm.report.summary import print_conversion, print_group
from daskglm.schema.datasets import space_of

_SHAPE, _VOXEL_MM = (45, 54, 45), 4.0
_SLOPE, _NOISE, _MEAN = 0.06, 1.0, 100.0
_Z_THRESHOLD = 3.09


@dataclass(frozen=True)
class Cohort:
    """A simulated cohort on disk and the truth behind it.

    Attributes
    ----------
    pattern : str
        Glob of the images.
    participants : str
        Table of the participants.
    mask : (X, Y, Z) bool
        Brain.
    slope : (X, Y, Z) float64
        True effect of age, in image units a year.
    """

    pattern: str
    participants: str
    mask: NDArray[np.bool_]
    slope: NDArray[np.float64]


def simulate_cohort(folder: str, n_subjects: int, seed: int = 0) -> Cohort:
    """Write a cohort whose images depend on age in two places and on sex nowhere.

    Parameters
    ----------
    folder : str
        Where ``sub-*_statmap.nii.gz`` and ``participants.tsv`` go.
    n_subjects : int
        How many; every ninth one lacks the top of the brain (NaN).
    seed : int
        Image i depends on (seed, i) alone.

    Returns
    -------
    Cohort
    """
    affine = np.diag([_VOXEL_MM, _VOXEL_MM, _VOXEL_MM, 1.0])
    affine[:3, 3] = -_VOXEL_MM * (np.array(_SHAPE) - 1) / 2
    mask, slope = _brain(affine)
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, n_subjects).round(1)
    sex = np.where(rng.permutation(n_subjects) % 2, "F", "M")
    names = [f"sub-{index + 1:03d}" for index in range(n_subjects)]
    for index, name in enumerate(names):
        noise = np.random.default_rng((seed, index)).standard_normal(_SHAPE)
        image = np.where(mask, _MEAN + slope * (age[index] - 50) + _NOISE * noise, np.nan)
        if index % 9 == 4:
            image[:, :, int(0.7 * _SHAPE[2]) :] = np.nan
        path = os.path.join(folder, f"{name}_stat-effect_statmap.nii.gz")
        write_image(nib.Nifti1Image(image.astype(np.float32), affine), path)
    table = os.path.join(folder, "participants.tsv")
    pd.DataFrame({"participant_id": names, "age": age, "sex": sex}).to_csv(table, sep="\t", index=False)
    return Cohort(os.path.join(folder, "sub-*_statmap.nii.gz"), table, mask, slope)


def run_demo(output: str, n_subjects: int, console: Console) -> GroupResult:
    """Simulate, convert, fit and compare with the truth.

    Parameters
    ----------
    output : str
        A new folder, or one of an earlier demo.
    n_subjects : int
        How many subjects to simulate.
    console : rich.console.Console
        Where to print.

    Returns
    -------
    GroupResult
        The analysis; a picture ``demo.png`` lies beside the cohort, the store and the maps.
    """
    folders = {name: os.path.join(output, name) for name in ("cohort", "results")}
    _check_folder(output)
    prepare_output(folders["results"], overwrite=True)
    os.makedirs(folders["cohort"], exist_ok=True)
    console.print(f"Simulating {n_subjects} subjects; the image grows with age in two places, sex does nothing")
    cohort = simulate_cohort(folders["cohort"], n_subjects)
    store = os.path.join(output, "cohort.zarr")
    with connect("local") as client:
        console.print(f"Local Dask cluster, dashboard at {client.dashboard_link}", markup=False)
        print_conversion(convert(cohort.pattern, store, participants=cohort.participants, overwrite=True), console)
        result = group_analysis(
            store, folders["results"], "~ age + sex", {"age": "age", "sex": "sex"},
            f_contrasts={"age and sex": "age, sex"}, overwrite=True,
        )  # fmt: skip
    print_group(result, console)
    _compare(result, cohort, console)
    picture = os.path.join(output, "demo.png")
    draw_demo(result, cohort.slope, cohort.mask, picture)
    console.print(f"Picture: {picture}", markup=False)
    return result


def _check_folder(output: str) -> None:
    """Raise where a folder holds anything that is not of an earlier demo, and mark it as one."""
    mark = os.path.join(output, ".daskglm-demo")
    if os.path.isdir(output) and os.listdir(output) and not os.path.exists(mark):
        raise OutputError(f"{output} holds other files than those of a demo; choose an empty or new folder")
    write_bytes(mark, b"")


def _brain(affine: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Two hemispheres with a gap between them, and the true effect of age: a rise and a fall."""
    axes = [affine[k, 3] + affine[k, k] * np.arange(size) for k, size in enumerate(_SHAPE)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    hemispheres = [((x - side * 34) / 38) ** 2 + (y / 85) ** 2 + (z / 65) ** 2 < 1 for side in (-1, 1)]
    mask = hemispheres[0] | hemispheres[1]

    def blob(*centre: float) -> NDArray[np.float64]:
        distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
        return np.exp(-distance / (2 * 14.0**2))

    slope = _SLOPE * (blob(-32, -40, 20) - blob(32, 30, 8))
    return mask, np.where(mask, np.where(np.abs(slope) > 0.1 * _SLOPE, slope, 0.0), 0.0)


def _compare(result: GroupResult, cohort: Cohort, console: Console) -> None:
    """Print what was recovered beside what was put in."""
    maps = result.maps.sel(contrast="age")
    effect: Any = maps["effect_size"].sel(component=0).values
    space = space_of(result.maps)
    truth = cohort.slope.ravel(order="F")[space.voxels]
    tested = np.isfinite(effect)
    strong, null = tested & (np.abs(truth) > 0.5 * _SLOPE), tested & (truth == 0)
    significant = np.abs(maps["z_score"].values) > _Z_THRESHOLD
    gain = float(effect[strong] @ truth[strong] / (truth[strong] @ truth[strong]))
    console.print("What went in, and what came out:")
    console.print(f"  effect of age where it is strong: {gain:.1%} of the truth ({int(strong.sum()):,} voxels)")
    console.print(f"  found there at |z| > {_Z_THRESHOLD}: {significant[strong].mean():.1%}")
    console.print(f"  found where there is none: {significant[null].mean():.2%} (0.20% expected)")
    sex = np.abs(result.maps["z_score"].sel(contrast="sex").values[tested]) > _Z_THRESHOLD
    console.print(f"  'effects' of sex, which has none: {sex.mean():.2%} (0.20% expected)")
