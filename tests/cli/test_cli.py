"""The commands of the README, and their exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from daskglm.cli.main import main


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def group(cohort, output, *more):
    model = ["--participants", cohort.table_path, "--formula", "~ age + sex"]
    return run("group", *cohort.paths, *model, "--output", output, *more)


def test_group_writes_everything(cohort, tmp_path):
    output = tmp_path / "out"
    contrasts = ["--contrast", "age", "--contrast", "men=sex", "--f-contrast", "age, sex"]
    status, text = group(cohort, output, *contrasts)
    assert status == 0
    names = {name for name in os.listdir(output) if name != ".daskglm"}
    for label, stat in (("age", "t"), ("men", "t"), ("ageSex", "F")):
        for kind in ("effect", "variance", stat, "z", "p"):
            assert f"contrast-{label}_stat-{kind}_statmap.nii.gz" in names
    assert {
        "n.nii.gz",
        "mask.nii.gz",
        "design.tsv",
        "peaks.tsv",
        "dataset_description.json",
        "provenance.json",
    } <= names
    assert len(names) == 21
    effect = np.asarray(nib.load(output / "contrast-age_stat-effect_statmap.nii.gz").dataobj)
    truth = np.linalg.lstsq(cohort.design.to_numpy(), cohort.vectors, rcond=None)[0][0]
    assert np.allclose(effect.ravel(order="F")[cohort.mask.ravel(order="F")], truth)
    design = pd.read_csv(output / "design.tsv", sep="\t")
    assert design["participant_id"].tolist() == cohort.names
    assert np.allclose(design["age"], cohort.table["age"])
    made = json.loads((output / "provenance.json").read_text())
    assert made["images"] == cohort.paths
    assert made["parameters"]["formula"] == "~ age + sex"
    assert made["parameters"]["contrasts"]["age, sex"]["type"] == "F"
    assert made["software"]["nibabel"] == nib.__version__
    assert "12 images, 3 regressors" in text
    assert "90 voxels tested" in text
    peak = np.unravel_index(np.nanargmax(effect * 0 + _z(output, "age")), effect.shape)
    x = nib.affines.apply_affine(cohort.mask_img.affine, peak)
    assert pd.read_csv(output / "peaks.tsv", sep="\t").loc[0, ["x", "y", "z"]].tolist() == pytest.approx(list(x))


def _z(output, label):
    return np.asarray(nib.load(output / f"contrast-{label}_stat-z_statmap.nii.gz").dataobj)


@pytest.mark.parametrize("table", [True, False])
def test_one_sample_test(cohort, tmp_path, table):
    """The mean across subjects needs no table, but takes one."""
    from scipy.stats import ttest_1samp

    more = ["--participants", cohort.table_path] if table else []
    status, text = run("group", *cohort.paths, *more, "--formula", "~ 1", "--contrast", "mean=intercept",
                       "--output", tmp_path / "out")  # fmt: skip
    assert status == 0, text
    t = np.asarray(nib.load(tmp_path / "out" / "contrast-mean_stat-t_statmap.nii.gz").dataobj)
    expected = ttest_1samp(cohort.data, 0, axis=0).statistic
    assert np.allclose(t[cohort.mask], expected[cohort.mask])


def test_store_by_command(cohort, tmp_path):
    store, outputs = tmp_path / "cohort.zarr", [tmp_path / "a", tmp_path / "b"]
    status, text = run("convert", cohort.folder / "*.nii.gz", "--participants", cohort.table_path, "--output", store)
    assert (status, "12 images converted; 90 voxels" in text) == (0, True)
    status, text = run("info", store)
    assert status == 0
    assert "sub-01 ... sub-12" in text
    assert "age, sex" in text
    assert run("group", store, "--formula", "~ age + sex", "--contrast", "age", "--output", outputs[0])[0] == 0
    assert group(cohort, outputs[1], "--contrast", "age")[0] == 0
    assert np.allclose(_z(outputs[0], "age"), _z(outputs[1], "age"), atol=1e-5)


def test_quarantine_by_command(cohort, tmp_path):
    Path(cohort.paths[3]).write_bytes(b"damaged")
    store = tmp_path / "cohort.zarr"
    status, text = run("convert", *cohort.paths, "--output", store)
    assert (status, "sub-04" in text) == (2, True)
    assert not store.exists()
    status, text = run("convert", *cohort.paths, "--output", store, "--on-error", "quarantine")
    assert status == 0
    assert "1 images are LEFT OUT" in text
    assert "11 images converted" in text


ERRORS = {
    "unknown contrast": (["--contrast", "agee"], "did you mean 'age'?"),
    "no contrast": ([], "give --contrast"),
    "colliding labels": (["--contrast", "age", "--contrast", "AGE=sex"], "both be written as 'contrast-AGE'"),
    "one name twice": (["--contrast", "x=age", "--contrast", "x=sex"], "two contrasts are called 'x'"),
    "negative smoothing": (["--contrast", "age", "--smoothing-fwhm", "-4"], "smoothing_fwhm"),
    "smoothing by nan": (["--contrast", "age", "--smoothing-fwhm", "nan"], "smoothing_fwhm"),
    "nobody there": (["--contrast", "age", "--cluster", "tcp://127.0.0.1:1"], "cannot connect to the cluster"),
    "t and F of one name": (["--contrast", "age", "--f-contrast", "age"], "both a t and an F"),
    "a t contrast of several columns": (["--contrast", "both=age, sex"], "a t contrast has one row, but 'both' has 2"),
    "a term of several columns": (["--contrast", "x=age", "--formula", "~ bs(age, df=4)"], "'x' has 4, of bs(age, "),
    "unknown column": (["--contrast", "age", "--formula", "~ age + sexx"], "did you mean 'sex'?"),
    "dependent": (["--contrast", "age", "--formula", "~ age + I(2*age)"], "linearly dependent"),
    "no table": (["--contrast", "age", "--participants", "nowhere.tsv"], "cannot read the table nowhere.tsv"),
    "a table of another kind": (["--contrast", "age", "--participants", "x.xlsx"], "tables are .tsv or .csv"),
    "a mask of another kind": (["--contrast", "age", "--mask", "nowhere.nii"], "nowhere.nii: no such file"),
    "no cluster": (["--contrast", "age", "--cluster", "nowhere.yaml"], "there is no 'nowhere.yaml'"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_bad_input_is_one_line_and_status_2(cohort, tmp_path, fault):
    arguments, message = ERRORS[fault]
    status, text = group(cohort, tmp_path / "out", *arguments)
    assert status == 2
    assert message in text
    assert text.startswith("daskglm: ")
    assert len(text.strip().splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_rows_of_the_table_are_matched_by_id(cohort, tmp_path):
    cohort.table.sample(frac=1, random_state=0).to_csv(cohort.table_path, sep="\t", index=False)
    assert group(cohort, tmp_path / "shuffled", "--contrast", "age")[0] == 0
    cohort.table.to_csv(cohort.table_path, sep="\t", index=False)
    assert group(cohort, tmp_path / "ordered", "--contrast", "age")[0] == 0
    assert np.array_equal(_z(tmp_path / "shuffled", "age"), _z(tmp_path / "ordered", "age"))
    cohort.table.iloc[:11].to_csv(cohort.table_path, sep="\t", index=False)
    status, text = group(cohort, tmp_path / "short", "--contrast", "age")
    assert (status, "no row: sub-12" in text) == (2, True)


def test_results_are_not_overwritten_nor_mixed(cohort, tmp_path):
    output = tmp_path / "out"
    assert group(cohort, output, "--contrast", "age", "--contrast", "sex")[0] == 0
    status, text = group(cohort, output, "--contrast", "age")
    assert (status, "--overwrite" in text) == (2, True)
    assert group(cohort, output, "--contrast", "age", "--overwrite")[0] == 0
    assert not list(output.glob("contrast-sex*"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    status, text = group(cohort, foreign, "--contrast", "age", "--overwrite")
    assert (status, "already holds other files" in text) == (2, True)
    assert (foreign / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    status, text = group(cohort, tmp_path / "file" / "below", "--contrast", "age")
    assert (status, "cannot write to" in text) == (2, True)


def test_a_failure_while_writing_leaves_nothing_that_looks_whole(cohort, tmp_path, monkeypatch):
    from daskglm.io import results

    original, calls = results.write_image, []

    def fail(image, path):
        calls.append(path)
        if len(calls) == 4:
            raise OSError("no space left on device")
        original(image, path)

    monkeypatch.setattr(results, "write_image", fail)
    status, text = group(cohort, tmp_path / "out", "--contrast", "age")
    assert (status, "no space left" in text) == (2, True)
    assert os.listdir(tmp_path / "out") == [".daskglm"]
    assert json.loads((tmp_path / "out" / ".daskglm" / "run.json").read_text())["state"] == "failed"


def test_debug_shows_the_traceback(cohort, tmp_path):
    from daskglm.errors import ContrastError

    with pytest.raises(ContrastError):
        run("--debug", "group", *cohort.paths, "--participants", cohort.table_path, "--formula", "~ age",
            "--contrast", "agee", "--output", tmp_path / "out")  # fmt: skip


def test_damaged_stores(cohort, tmp_path):
    store = tmp_path / "cohort.zarr"
    assert run("convert", *cohort.paths, "--output", store)[0] == 0
    chunk = store / "data" / "c" / "0" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[100] ^= 1
    chunk.write_bytes(damaged)
    model = [
        "--participants",
        cohort.table_path,
        "--formula",
        "~ age",
        "--contrast",
        "age",
        "--output",
        tmp_path / "out",
    ]
    status, text = run("group", store, *model)
    assert (status, "chunk of the store is damaged" in text) == (2, True)
    (store / "zarr.json").write_text("{")
    status, text = run("info", store)
    assert (status, text.startswith("daskglm: cannot open")) == (2, True)
    (tmp_path / "broken.yaml").write_text("kind: [local\n")
    status, text = run("group", *cohort.paths, *model, "--cluster", tmp_path / "broken.yaml")
    assert (status, "cannot read" in text) == (2, True)


def test_an_unexpected_error_is_one_line_too(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr("daskglm.models.group.find_peaks", lambda maps: 1 / 0)
    status, text = group(cohort, tmp_path / "out", "--contrast", "age", "--quiet")
    assert (status, len(text.strip().splitlines())) == (1, 1)
    assert "ZeroDivisionError" in text


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_demo_recovers_the_truth(tmp_path):
    status, text = run("demo", "--output", tmp_path / "demo", "--subjects", 24)
    assert status == 0
    recovered = float(text.split("where it is strong: ")[1].split("%")[0])
    assert 85 < recovered < 115
    false = float(text.split("where there is none: ")[1].split("%")[0])
    assert false < 0.6
    picture = (tmp_path / "demo" / "demo.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(picture) > 20_000


def test_import_is_light():
    code = (
        "import sys, time; t = time.perf_counter(); import daskglm; s = time.perf_counter() - t; "
        "heavy = {'numpy', 'dask', 'xarray', 'zarr', 'pandas', 'sklearn', 'distributed'} & set(sys.modules); "
        "assert not heavy, heavy; assert s < 1.5, s; assert 'SecondLevelModel' in dir(daskglm)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_is_light():
    code = (
        "import sys; from daskglm.cli.main import main; main(['--help'], standalone_mode=False); "
        "heavy = {'numpy', 'scipy', 'dask', 'xarray', 'zarr', 'pandas', 'nibabel'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
