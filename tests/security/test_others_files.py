"""Files that others put beside ours: no command, on disk or behind a URL, with --overwrite or not, takes one away."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from cohorts import AFFINE

import daskglm
from daskglm.cli.main import main
from daskglm.demo import run_demo
from daskglm.errors import ImageError, OutputError
from daskglm.io import files, store_writing
from daskglm.io.checkpoints import forget_checkpoints
from daskglm.io.permutations import load_units, save_unit
from daskglm.models import convert as conversion
from daskglm.models.group import group_analysis
from daskglm.models.permutation_analysis import permutation_analysis
from daskglm.simulation import simulate_bids

THESIS = b"years of work"


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture
def strange(tmp_path):
    """Puts files of others, and links to a folder elsewhere, below a folder; gives what checks that all are there."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "c").mkdir(parents=True)
    kept = [elsewhere / "raw.nii.gz", elsewhere / "c" / "0", elsewhere / "zarr.json", elsewhere / "00000-00012.npz"]
    for path in kept:
        path.write_bytes(THESIS)

    def put(*names):
        for folder in {name.parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "link-to-elsewhere").symlink_to(elsewhere)
        for name in names:
            name.write_bytes(THESIS)
        links = {name.parent / "link-to-elsewhere" for name in names}

        def check():
            assert [path for path in [*names, *kept] if not path.is_file() or path.read_bytes() != THESIS] == []
            assert all(link.is_symlink() for link in links)

        return check

    return put


def test_permutations_kept_in_a_folder_of_others(cohort, tmp_path, strange):
    folder = tmp_path / "kept"
    names = ("thesis.docx", "results.tsv", "sub/raw.nii.gz", "mine.npz", ".hidden", "abc_000000000-000000004.npz")
    check = strange(*(folder / name for name in names))
    design = cohort.table.set_index("participant_id")[["age"]].assign(intercept=1.0)
    daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=cohort.mask_img)
    images = daskglm.open_images(str(tmp_path / "all.zarr"))
    design.index = images["sample"].values
    for contrast in ("age", "intercept", "age"):
        daskglm.permutation_test(images, design, {"c": contrast}, n_perm=20, folder=str(folder))
        check()
    # Tests of two contrasts share the folder: each finds its own again.
    assert len([name for name in os.listdir(folder) if name.endswith("npz")]) == 4


def test_units_that_do_not_follow_are_ours_alone(tmp_path):
    folder = str(tmp_path)
    for key, start in (("abc", 0), ("abc", 8), ("def", 8)):
        save_unit(folder, key, start, start + 4, {"t": np.ones((1, 4))}, {"t": np.ones((1, 5), np.int64)})
    assert len(load_units(folder, "abc", 4)) == 1
    assert sorted(os.listdir(folder)) == ["abc_000000000-000000004.npz", "def_000000008-000000012.npz"]


def test_results_overwritten(cohort, tmp_path, strange):
    output, model = tmp_path / "out", {"participants": cohort.table, "mask": cohort.mask_img}
    group_analysis(cohort.paths, str(output), "~ age", {"age": "age"}, **model)
    names = ("thesis.docx", "report.html", "figures/a.png", ".partial-thesis", ".daskglm/moments/00000-00012.npz",
             ".daskglm/notes.txt", ".permutations/mine.npz", f".daskglm/moments/{'0' * 32}/mine.npz")  # fmt: skip
    check = strange(*(output / name for name in names))
    group_analysis(cohort.paths, str(output), "~ age + sex", {"sex": "sex"}, overwrite=True, **model)
    check()
    permutation_analysis(cohort.paths, str(output), "~ age", {"a": "age"}, n_perm=20, overwrite=True, **model)
    check()
    forget_checkpoints(str(output))
    check()
    assert not list(output.glob("contrast-age_*"))
    assert list(output.glob("contrast-a_*"))


def test_results_do_not_replace_others(cohort, tmp_path, strange):
    """A file whose name a new contrast would take; and a provenance that is another program's."""
    output, model = tmp_path / "out", {"participants": cohort.table, "mask": cohort.mask_img}
    group_analysis(cohort.paths, str(output), "~ age", {"age": "age"}, **model)
    check = strange(output / "contrast-mean_stat-t_statmap.nii.gz")
    with pytest.raises(OutputError, match=r"contrast-mean_stat-t_statmap.nii.gz, which daskglm did not write; move it"):
        group_analysis(cohort.paths, str(output), "~ age", {"mean": "intercept"}, overwrite=True, **model)
    check()
    assert (output / "contrast-age_stat-t_statmap.nii.gz").exists()
    other = tmp_path / "other"
    check = strange(other / "map.nii.gz")
    (other / "provenance.json").write_text(json.dumps({"files": ["map.nii.gz"]}))
    with pytest.raises(OutputError, match="already holds other files"):
        group_analysis(cohort.paths, str(other), "~ age", {"age": "age"}, overwrite=True, **model)
    check()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_objects_of_others(cohort, bucket):
    """Behind a URL: a result folder and a store, overwritten; nothing but objects of known names goes."""
    output, store = f"{bucket.url}/out", f"{bucket.url}/all.zarr"
    model = {"participants": cohort.table, "mask": cohort.mask_img}
    group_analysis(cohort.paths, output, "~ age", {"age": "age"}, **model)
    daskglm.convert(cohort.paths, store, **model)
    names = [f"{output}/thesis.docx", f"{output}/sub/raw.nii.gz", f"{output}/report.html",
             f"{output}/.daskglm/moments/{'0' * 32}/mine.npz", f"{store}/data/c/0/notes.txt", f"{store}/age/mine",
             f"{store}-mine/zarr.json", f"{bucket.url}/all.zarr.txt"]  # fmt: skip
    for name in names:
        files.write_bytes(name, THESIS)
    group_analysis(cohort.paths, output, "~ age", {"mean": "intercept"}, overwrite=True, **model)
    daskglm.convert(cohort.paths[:4], store, mask=cohort.mask_img, overwrite=True)
    forget_checkpoints(output)
    files.remove(output)
    assert [name for name in names if files.read_bytes(name) != THESIS] == []
    assert not files.exists(f"{output}/contrast-age_stat-t_statmap.nii.gz")
    assert daskglm.open_images(store).sizes["sample"] == 4
    files.write_bytes(f"{store}/thesis.docx", THESIS)
    with pytest.raises(OutputError, match=r"holds other files \(age, thesis.docx\)"):
        daskglm.convert(cohort.paths, store, mask=cohort.mask_img, overwrite=True)


def convert_killed(monkeypatch, place, *given, **options):
    """A conversion that is killed where a function is called."""

    def kill(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(*place, kill)
        with pytest.raises(KeyboardInterrupt):
            daskglm.convert(*given, **options)


def test_store_overwritten(cohort, tmp_path, monkeypatch, strange):
    """Overwritten, half created, half filled: files within the store that are no part of it stay."""
    store = tmp_path / "all.zarr"
    daskglm.convert(cohort.paths, str(store), participants=cohort.table, mask=cohort.mask_img)
    names = ("data/thesis.docx", "data/c/0/notes.txt", "data/c/mine/0", "sample/backup.partial", "sample/zarr.json.bak")
    check = strange(*(store / name for name in names))
    assert len(daskglm.convert(cohort.paths[:4], str(store), mask=cohort.mask_img, overwrite=True).written) == 4
    check()
    assert not (store / "age").exists()
    convert_killed(
        monkeypatch, (store_writing, "_create"), cohort.paths, str(store), mask=cohort.mask_img, overwrite=True
    )
    check()
    with pytest.raises(OutputError, match="holds other files and is no store"):
        daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img, overwrite=True)
    check()
    store = tmp_path / "more.zarr"
    daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    check = strange(*(store / name for name in names))
    convert_killed(
        monkeypatch, (conversion, "finish_store"), cohort.paths, str(store), participants=cohort.table,
        mask=cohort.mask_img, overwrite=True,
    )  # fmt: skip
    daskglm.convert(cohort.paths, str(store), participants=cohort.table, mask=cohort.mask_img, overwrite=True)
    check()
    assert daskglm.open_images(str(store)).sizes["sample"] == 12


def test_columns_made_anew(cohort, tmp_path, strange):
    """While a store has no sample, columns that were made for others are removed: their files alone."""
    store = tmp_path / "all.zarr"
    bad = [path.replace("sub-", "bad_sub-") for path in cohort.paths]
    for path in bad:
        nib.save(nib.Nifti1Image(np.full(cohort.mask.shape, np.nan), AFFINE), path)
    with pytest.raises(ImageError, match="none of the 12 images can be used"):
        daskglm.convert(bad, str(store), participants=cohort.table, mask=cohort.mask_img, on_error="quarantine")
    assert (store / "age" / "zarr.json").exists()
    check = strange(store / "age" / "thesis.docx", store / "age" / "c" / "notes.txt")
    daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    check()
    assert not (store / "age" / "zarr.json").exists()


def test_arrays_of_others(cohort, tmp_path):
    """An array that a user added to a store is no part of it, nor is what leads elsewhere."""
    store = tmp_path / "all.zarr"
    daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    zarr.create_array(f"{store}/mine", data=np.arange(3.0))
    with pytest.raises(OutputError, match=r"holds other files \(mine\)"):
        daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img, overwrite=True)
    assert zarr.open_array(f"{store}/mine")[:].tolist() == [0, 1, 2]


def test_store_behind_a_link(cohort, tmp_path):
    """A store kept on another disk is overwritten where it is; the link stays."""
    (tmp_path / "disk").mkdir()
    daskglm.convert(cohort.paths, str(tmp_path / "disk" / "all.zarr"), mask=cohort.mask_img)
    store = tmp_path / "all.zarr"
    store.symlink_to(tmp_path / "disk" / "all.zarr")
    daskglm.convert(cohort.paths[:4], str(store), mask=cohort.mask_img, overwrite=True)
    assert store.is_symlink()
    assert daskglm.open_images(str(store)).sizes["sample"] == 4


def test_list_of_quarantined_of_another(cohort, tmp_path, strange):
    check = strange(tmp_path / "all_quarantined.tsv")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"all_quarantined.tsv was not written by daskglm"):
            daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), mask=cohort.mask_img, overwrite=overwrite)
    check()


@pytest.fixture
def dataset(tmp_path):
    mask = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))
    simulate_bids(str(tmp_path / "bids"), mask, dict.fromkeys("ab", np.ones((4, 4, 4))), 1, 1, 60)
    return tmp_path / "bids"


def analyse(dataset, output, contrasts):
    return daskglm.first_level_analysis(str(dataset), str(output), contrasts, n_jobs=1)


def test_first_level_beside_others(dataset, tmp_path, strange):
    output = tmp_path / "out"
    analyse(dataset, output, {"a - b": "a - b"})
    store = next((output / "group").glob("*.zarr"))
    names = ("thesis.docx", "failures.tsv.bak", "sub-01/notes.txt", "sub-01/func/raw.nii.gz", "figures/mine.png",
             "group/thesis.docx", f"group/{store.name}/data/notes.txt", ".partial-thesis", "sub-03/func/x_glm.json.txt",
             "sub-01/func/sub-09_task-x_contrast-aMinusB_stat-t_statmap.nii.gz")  # fmt: skip
    check = strange(*(output / name for name in names))
    analyse(dataset, output, {"a": "a"})
    check()
    assert not list(output.rglob("sub-01_*aMinusB*"))


@pytest.mark.parametrize("name", ["dataset_description.json", "failures.tsv", "first_level.json"])
def test_documents_of_others_are_not_replaced(dataset, tmp_path, strange, name):
    output = tmp_path / "out"
    check = strange(output / name)
    with pytest.raises(OutputError, match=rf"{name} was not written by daskglm"):
        analyse(dataset, output, {"a": "a"})
    check()


@pytest.mark.parametrize("end", ["contrast-a_stat-effect_statmap.nii.gz", "glm.json", "design.tsv"])
def test_maps_of_others_are_not_replaced(dataset, tmp_path, strange, end):
    """Another program's derivatives, by BIDS names that are ours as well."""
    output, name = tmp_path / "out", "sub-01_task-faces_run-1_space-MNI152NLin2009cAsym"
    check = strange(output / "sub-01" / "func" / f"{name}_{end}")
    with pytest.raises(OutputError, match="which daskglm did not write; move it or choose another output"):
        analyse(dataset, output, {"a": "a"})
    check()


def test_pages_of_others(cohort, tmp_path, strange):
    pytest.importorskip("nilearn")
    output = tmp_path / "out"
    group = ("group", *cohort.paths, "--contrast", "intercept", "--output", output)
    assert run(*group, "--no-report")[0] == 0
    check = strange(output / "report.html", output / "study.html", tmp_path / "thesis.html")
    status, text = run(*group, "--overwrite")
    assert (status, "report.html was not written by daskglm" in text) == (0, True), text
    for command in (("report", output), ("report", output, "--output", tmp_path / "thesis.html"),
                    ("report", output, output, "--output", tmp_path / "thesis.html")):  # fmt: skip
        status, text = run(*command)
        assert (status, "was not written by daskglm, so it is not replaced" in text) == (2, True), text
    check()
    (output / "report.html").unlink()
    for more in ((), ("--no-report",)):
        assert run(*group, "--overwrite", *more)[0] == 0
        assert (output / "report.html").exists() == (not more)


def test_demo_and_simulation_beside_others(tmp_path, strange):
    check = strange(tmp_path / "mine" / "cohort" / "participants.tsv", tmp_path / "mine" / "dataset_description.json")
    with pytest.raises(OutputError, match="choose an empty or new folder"):
        run_demo(str(tmp_path / "mine"), 4, None)
    mask = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    with pytest.raises(OutputError, match="was not written by daskglm"):
        simulate_bids(str(tmp_path / "mine"), mask, {"a": np.ones((4, 4, 4))}, 1)
    check()


def test_performance_report_of_another(cohort, tmp_path, strange):
    pytest.importorskip("bokeh")
    check = strange(tmp_path / "thesis.html")
    status, text = run("convert", *cohort.paths, "--output", tmp_path / "all.zarr", "--cluster", "local",
                       "--performance-report", tmp_path / "thesis.html")  # fmt: skip
    assert (status, "is no performance report, so it is not replaced" in text) == (2, True), text
    check()
