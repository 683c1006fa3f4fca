"""Every example runs, as a user runs it, shows a picture and prints numbers that are right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples"
NUMBER = r"(-?[\d.]+(?:e[-+]\d+)?)"
# What each prints: a pattern whose group is a number, and between what it is. Nothing here is our own output: it is a
# difference from somebody else's numbers (of runs in single precision nilearn computes in that), or a part of the truth
# that went in.
EXACT, SINGLE = (0, 1e-6), (0, 2e-4)
PRINTED = {
    "plot_one_sample_permutation": {
        f"difference from nilearn, z: {NUMBER}": EXACT,
        f"difference from nilearn, t: {NUMBER}": EXACT,
        # Two draws of 1000: the standard deviation of a difference of two p is at most 0.022.
        f"corrected p of two draws: {NUMBER}": (0, 0.08),
        rf"of them in the true effect: {NUMBER}%": (95, 100),
    },
    "plot_two_sample_paired": {
        f"difference from nilearn, unpaired: {NUMBER}": EXACT,
        f"difference from nilearn, paired: {NUMBER}": EXACT,
        f"difference from scipy's paired t test: {NUMBER}": EXACT,
        rf"\npaired: found {NUMBER}% of the effect": (80, 100),
        rf"\nunpaired: found {NUMBER}% of the effect": (0, 10),
    },
    "plot_covariates_and_missing_data": {
        f"difference from statsmodels: {NUMBER}": EXACT,
        f"t of age on {NUMBER} degrees of freedom": (29, 29),
    },
    "plot_first_level": {
        f"difference from nilearn, z: {NUMBER}": SINGLE,
        f"error of the effect, four runs: {NUMBER}": (0, 0.3),
    },
    "plot_fir": {
        f"difference from nilearn, z: {NUMBER}": SINGLE,
        f"estimated with the true response: {NUMBER}": (0.98, 1),
        f"estimated at {NUMBER} s": (9.0, 9.0),
    },
    "plot_parametric_modulation": {
        f"difference from nilearn, z: {NUMBER}": SINGLE,
        rf"growth with the stake: {NUMBER}% of the truth": (85, 115),
    },
    "plot_beta_series": {
        f"difference from nilearn, beta: {NUMBER}": SINGLE,
        f"left: correlation of estimated and true amplitudes {NUMBER}": (0.85, 1),
        f"trials of 'both': {NUMBER} ": (0.8, 1),
    },
    "plot_bids_cohort_on_a_cluster": {
        rf"mean: {NUMBER}% of the truth": (85, 115),
        rf"age: {NUMBER}% of the truth": (70, 130),
        f"16 runs: {NUMBER} fitted": (16, 16),
    },
    "plot_s3": {
        # A store of single precision beside files of double.
        f"difference from files on disk, z: {NUMBER}": EXACT,
        rf"found {NUMBER}% of the effect": (75, 100),
        rf"elsewhere {NUMBER}% of voxels pass": (0, 0.5),
    },
    "plot_vbm_age_sex": {
        f"difference from nilearn, z: {NUMBER}": EXACT,
        rf"found {NUMBER}% of the effect": (85, 100),
        rf"; {NUMBER}% of what passes is false": (0, 10),
    },
    "plot_growing_cohort": {
        f"{NUMBER} images converted, 20 were there already": (20, 20),
        f"difference from the files, z: {NUMBER}": EXACT,
    },
    "plot_federated_sites": {
        f"difference from pooled images, effect_size: {NUMBER}": EXACT,
        f"difference from pooled images, z_score: {NUMBER}": EXACT,
        rf"all sites: found {NUMBER}% of the effect": (80, 100),
    },
}


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("plot_*.py")))
def test_example(name, tmp_path):
    if name == "plot_s3":
        pytest.importorskip("moto.server")
    (tmp_path / "figures").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY" and not key.startswith("AWS_")}
    environment |= {
        "MPLBACKEND": "module://save_figures", "FIGURES": str(tmp_path / "figures"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "TMPDIR": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", FOLDER / f"{name}.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for pattern, (low, high) in PRINTED[name].items():
        found = re.findall(pattern, done.stdout)
        assert len(found) == 1, (pattern, done.stdout)
        assert low <= float(found[0]) <= high, (pattern, found)
    (figure,) = (tmp_path / "figures").iterdir()
    check_picture(figure)


def check_picture(path):
    """More than a blank page: many colours, and nothing drawn on the very edge, where it would be cut off."""
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    assert all(np.allclose(edge, 1) for edge in edges), "something is cut off at the edge of the picture"


def test_without_moto_the_s3_example_says_what_it_needs(tmp_path):
    (tmp_path / "moto.py").write_text("raise ModuleNotFoundError('no moto')")
    done = subprocess.run(
        [sys.executable, FOLDER / "plot_s3.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'pip install "moto[s3,server]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readme_names_every_example():
    named = re.findall(r"``(plot_\w+)\.py``", (FOLDER / "README.txt").read_text())
    assert set(named) == {path.stem for path in FOLDER.glob("plot_*.py")} == set(PRINTED)


def test_notebooks_are_those_of_the_scripts(monkeypatch):
    pytest.importorskip("sphinx_gallery")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.syspath_prepend(str(FOLDER))
    from make_notebooks import notebook_of

    scripts = {path.stem: path for path in FOLDER.glob("plot_*.py")}
    notebooks = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "notebooks").glob("*.ipynb")}
    assert sorted(notebooks) == sorted(scripts)
    for name, text in notebooks.items():
        assert text == notebook_of(scripts[name]), f"run: python examples/make_notebooks.py ({name} has changed)"
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells)
        assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 4
