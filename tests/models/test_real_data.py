"""Thirty real contrast maps, with and without Zarr, by command and by function, against statsmodels."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from click.testing import CliRunner

import daskglm
from daskglm.cli.main import main

NAME = "reappraisal_success"


@pytest.fixture(scope="module")
def results(emotion_regulation, tmp_path_factory):
    """Output of each of the four ways."""
    folder = tmp_path_factory.mktemp("emotion")
    pattern, table = str(emotion_regulation / "*_statmap.nii.gz"), str(emotion_regulation / "participants.tsv")
    store = str(folder / "cohort.zarr")
    model = ["--formula", f"~ {NAME}", "--contrast", NAME]
    commands = [
        ["group", pattern, "--participants", table, *model, "--output", str(folder / "files")],
        ["convert", pattern, "--participants", table, "--output", store],
        ["group", store, *model, "--output", str(folder / "store")],
    ]
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    maps = {}
    for way in ("files", "store"):
        for stat in ("effect", "variance", "t", "z", "p"):
            path = folder / way / f"contrast-reappraisalSuccess_stat-{stat}_statmap.nii.gz"
            maps[f"command, {way}", stat] = np.asarray(nib.load(path).dataobj)
        maps[f"command, {way}", "n"] = np.asarray(nib.load(folder / way / "n.nii.gz").dataobj)
    names = {"effect_size": "effect", "effect_variance": "variance", "stat": "t", "z_score": "z", "p_value": "p"}
    for way, source in (("files", pattern), ("store", store)):
        fitted = daskglm.SecondLevelModel().fit(source, confounds=table, formula=f"~ {NAME}")
        for kind, image in fitted.compute_contrast(NAME, output_type="all").items():
            maps[f"function, {way}", names[kind]] = np.asarray(image.dataobj)
    return maps


def test_all_ways_agree(results):
    ways = sorted({way for way, _ in results})
    assert len(ways) == 4
    for stat in ("effect", "variance", "t", "z", "p"):
        for way in ways[1:]:
            assert np.allclose(results[way, stat], results[ways[0], stat], atol=1e-6, rtol=1e-6, equal_nan=True)


def test_equals_statsmodels_on_200_voxels(results, emotion_regulation):
    paths = sorted(emotion_regulation.glob("*_statmap.nii.gz"))
    data = np.stack([np.asarray(nib.load(path).dataobj) for path in paths]).astype(float)
    table = pd.read_csv(emotion_regulation / "participants.tsv", sep="\t")
    design = sm.add_constant(table[[NAME]].to_numpy())
    n = np.isfinite(data).sum(axis=0)
    rng = np.random.default_rng(0)
    partial, whole = np.argwhere((n >= 15) & (n < 30)), np.argwhere((n == 30) & (data.std(axis=0) > 0))
    chosen = np.concatenate([rng.permutation(partial)[:100], rng.permutation(whole)[:100]])
    assert len(chosen) == 200
    for voxel in map(tuple, chosen):
        seen = np.isfinite(data[(slice(None), *voxel)])
        fit = sm.OLS(data[(seen, *voxel)], design[seen]).fit()
        test = fit.t_test([0, 1])
        assert results["command, files", "n"][voxel] == seen.sum()
        assert np.isclose(results["command, files", "effect"][voxel], test.effect.item(), rtol=1e-8, atol=1e-12)
        assert np.isclose(results["command, files", "variance"][voxel], test.sd.item() ** 2, rtol=1e-8)
        assert np.isclose(results["command, files", "t"][voxel], test.tvalue.item(), rtol=1e-8, atol=1e-9)
        p = results["command, files", "p"][voxel]
        assert np.isclose(2 * min(p, 1 - p), test.pvalue.item(), rtol=1e-7)


def test_what_nilearn_finds_there(results):
    """The extremes that nilearn 0.14.1 reports for voxels with all thirty."""
    z, n = results["command, files", "z"], results["command, files", "n"]
    whole = z[n == 30]
    assert np.round([np.nanmin(whole), np.nanmax(whole)], 2).tolist() == [-3.24, 4.32]
    assert int((whole > 3.1).sum()) == 397
