"""Where nilearn warns, daskglm warns, refuses, or makes it right: every warning of its GLM code, and the answer.

What nilearn refuses is held by its own tests: test_nilearn.py.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiMasker

import daskglm
from daskglm import FirstLevelModel, make_first_level_design_matrix, permuted_ols
from daskglm.errors import DaskGLMError

HERE = Path(__file__).parent
SOURCES = (
    "glm/**/*.py", "mass_univariate/*.py", "reporting/get_clusters_table.py", "reporting/glm_reporter.py",
    "interfaces/bids/*.py",
)  # fmt: skip
# By a case below, by a test elsewhere, by another way of computing, or for want of what it is about.
ANSWERS = ("warns", "refuses", "elsewhere", "right", "none")


def answers() -> dict[str, tuple[str, str]]:
    """Of each of nilearn's warnings the answer and its case or explanation."""
    with open(HERE / "warnings.tsv", newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["warning"]: (row["answer"], row["how"]) for row in rows}


def nilearns() -> Iterator[str]:
    """nilearn's warnings: the file, the function, and how the text begins."""
    root = Path(nilearn.__file__).parent
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern) if "tests" not in path.parts):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warn", "warnings.warn"):
                    parts = [
                        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ]
                    text = " ".join("".join(parts).split())[:50].strip()
                    yield f"{path.relative_to(root).as_posix()} {function.name}: {text}"


def test_every_warning_of_nilearns_has_an_answer() -> None:
    listed = answers()
    assert set(nilearns()) == set(listed)
    assert all(answer in ANSWERS for answer, _ in listed.values())
    assert all(how in CASES for answer, how in listed.values() if answer in ("warns", "refuses"))
    for answer, how in listed.values():
        if answer == "elsewhere":
            file, name = how.split("::")
            assert f"def {name}(" in (HERE.parent / file).read_text() or name in _nilearns_own()
    assert all(len(how) > 15 for answer, how in listed.values() if answer in ("right", "none"))


def _nilearns_own() -> set[str]:
    """Names of nilearn's own tests of first_level_from_bids, which test_nilearn.py runs."""
    path = Path(nilearn.__file__).parent / "glm" / "tests" / "test_first_level_from_bids.py"
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


RNG = np.random.default_rng(1)
MASK = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
VOXELS = NiftiMasker(MASK, standardize=None).fit()
INSIDE = RNG.standard_normal((12, 27))
RUN = nib.Nifti1Image(100 + RNG.standard_normal((3, 3, 3, 20)), np.eye(4))
MAPS = [RUN.slicer[..., k] for k in range(8)]
EVENTS = pd.DataFrame({"onset": [2.0, 12.0, 22.0], "duration": [2.0, 2.0, 2.0], "trial_type": ["a", "b", "a"]})
DESIGN = pd.DataFrame({"a": RNG.standard_normal(20), "b": RNG.standard_normal(20), "constant": 1.0})
GROUP = pd.DataFrame({"age": np.arange(8.0), "intercept": 1.0})
TIMES = np.arange(20) * 2.0


def first(**given: Any) -> FirstLevelModel:
    """A model of one run."""
    return FirstLevelModel(mask_img=MASK, **given)


def fitted(**given: Any) -> FirstLevelModel:
    return first(**given).fit(RUN, design_matrices=DESIGN)


def design(**given: Any) -> pd.DataFrame:
    return make_first_level_design_matrix(TIMES, **{"events": EVENTS, **given})


def ols(data: Any = None, **given: Any) -> Any:
    values = RNG.standard_normal((12, 5)) if data is None else data
    return permuted_ols(np.arange(12.0), values, **{"n_perm": 5, **given})


def two_rows(contrast: Any) -> Any:
    data, matrix = RNG.standard_normal((20, 4)), DESIGN.to_numpy()
    return daskglm.compute_contrast(*daskglm.run_glm(data, matrix, "ols"), contrast)


def zeros() -> Any:
    values = RNG.standard_normal((12, 5))
    values[:, 0] = 0
    return values


def smoothed() -> Any:
    masker = NiftiMasker(MASK, smoothing_fwhm=2.0, standardize=None).fit()
    how = {"design_matrix": GROUP, "second_level_contrast": "age", "n_perm": 5}
    return daskglm.non_parametric_inference(MAPS, mask=masker, smoothing_fwhm=3.0, **how)


# A situation in which nilearn warns, and what daskglm says.
CASES: dict[str, tuple[Callable[[], object], str]] = {
    "predicted": (lambda: fitted().predicted, "use predicted_"),
    "residuals": (lambda: fitted().residuals, "use residuals_"),
    "r_square": (lambda: fitted().r_square, "use r_square_"),
    "first_level_contrast": (lambda: fitted().generate_report(first_level_contrast="a"), "is ignored"),
    "threshold of a report": (lambda: fitted().generate_report("a", height_control=None, bg_img=None), "is not given"),
    "old report": (lambda: daskglm.make_glm_report(fitted()), "use model.generate_report"),
    "padded": (lambda: two_rows([1, 1]), "the others get 0"),
    "sum of F": (lambda: two_rows(np.eye(3)[:2]) + two_rows(np.eye(3)[:2]), "approximate"),
    "null in a run": (
        lambda: first().fit([RUN, RUN], design_matrices=[DESIGN] * 2).compute_contrast([[1, 0, 0], [0, 0, 0]]), "null",
    ),
    "default threshold": (lambda: daskglm.threshold_stats_img(MAPS[0], MASK, height_control=None), "is not given"),
    "threshold not used": (lambda: daskglm.threshold_stats_img(MAPS[0], MASK, threshold=2), "is not used"),
    "singular group": (
        lambda: daskglm.make_second_level_design_matrix(
            ["1", "2"], pd.DataFrame({"subject_label": ["1", "2"], "x": [1.0, 1.0]})
        ), "dependent",
    ),
    "no trial_type": (lambda: design(events=EVENTS.drop(columns="trial_type")), "trial_type"),
    "null duration": (lambda: design(events=EVENTS.assign(duration=0.0)), "null duration"),
    "other column": (lambda: design(events=EVENTS.assign(response=1.0)), "unexpected columns"),
    "duplicates": (lambda: design(events=pd.concat([EVENTS, EVENTS[:1]])), "Duplicated"),
    "early event": (lambda: design(events=EVENTS.assign(onset=[-99.0, 12.0, 22.0])), "earlier"),
    "means of zero": (lambda: daskglm.mean_scaling(np.zeros((5, 3))), "under 1"),
    "given design and events": (lambda: first().fit(RUN, EVENTS, design_matrices=DESIGN), "not used"),
    "given design and parameters": (lambda: fitted(hrf_model="spm"), "do not depend on hrf_model"),
    "columns that differ": (
        lambda: first().fit([RUN, RUN], design_matrices=[DESIGN, DESIGN[["b", "a", "constant"]]])
        .compute_contrast([1, 0, 0]), "same regressors",
    ),
    "masker of another width": (smoothed, "smoothing_fwhm"),
    "legacy": (lambda: ols(output_type="legacy"), "take the dictionary"),
    "legacy TFCE": (lambda: ols(INSIDE, output_type="legacy", tfce=True, masker=VOXELS), "dictionary is given"),
    "zeros": (lambda: ols(zeros()), "do not vary"),
    "two constants": (lambda: ols(confounding_vars=np.ones((12, 2))), "2 columns of confounding_vars are constant"),
    "no cluster": (lambda: daskglm.get_clusters_table(MAPS[0], 1e6), "."),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_where_nilearn_warns(case: str) -> None:
    call, message = CASES[case]
    answer = {answer for answer, how in answers().values() if how == case}
    if answer == {"refuses"}:
        with pytest.raises(DaskGLMError, match=message):
            call()
    else:
        assert answer == {"warns"}
        with pytest.warns(Warning, match=message):
            call()
