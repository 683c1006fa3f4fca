"""Who is in an analysis, and which row is whose, on the command line; statsmodels has the values."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from click.testing import CliRunner

from daskglm.cli.main import main

# What commands warn of is read in what they print.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

N = 14
AFFINE = np.diag([2.0, 2, 2, 1])
RNG = np.random.default_rng(3)
DATA = RNG.standard_normal((N, 4, 4, 3)) + 1
TABLE = pd.DataFrame(
    {"participant_id": range(1, N + 1), "age": RNG.uniform(20, 60, N).round(1), "site": list("xy") * 7}
)
NAMES = [f"sub-{k:02d}" for k in range(1, N + 1)]


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Maps of 14 subjects, and a table of 16 with an age that is missing, in another order."""
    monkeypatch.chdir(tmp_path)
    for name, values in zip(NAMES, DATA, strict=True):
        nib.Nifti1Image(values, AFFINE).to_filename(f"{name}_con.nii")
    table = TABLE.assign(age=TABLE["age"].where(TABLE["participant_id"] != 4))
    others = table.iloc[:2].assign(participant_id=[77, 78])
    pd.concat([others, table]).sample(frac=1, random_state=0).to_csv("p.tsv", sep="\t", index=False, na_rep="n/a")
    pd.DataFrame({"participant_id": ["sub-02", "99"]}).to_csv("out.tsv", sep="\t", index=False)
    (tmp_path / "out.txt").write_text("2\nsub-99\n")
    return tmp_path


def t_at_a_voxel(output, contrast):
    return np.asarray(nib.load(f"{output}/contrast-{contrast}_stat-t_statmap.nii.gz").dataobj)[1, 2, 1]


def expected(formula, keep, term):
    return smf.ols(f"y {formula}", TABLE.assign(y=DATA[:, 1, 2, 1])[keep]).fit().tvalues[term]


MODEL = ("--participants", "p.tsv", "--quiet")


def test_a_covariate_that_is_missing_stops_or_drops(folder):
    analysis = ("*_con.nii", *MODEL, "--formula", "~ age", "--contrast", "age")
    status, text = run("group", *analysis, "--output", "no")
    assert (status, "'age', which is missing for sub-04" in text, "--na drop" in text) == (2, True, True)
    status, text = run("group", *analysis, "--na", "drop", "--output", "out")
    assert status == 0, text
    assert "1 of 14 images left out: no age: sub-04" in text
    assert "2 rows of the participants table have no image and are not used: 7" in text
    assert "13 images, 2 regressors (intercept, age), rows matched by id" in text
    assert t_at_a_voxel("out", "age") == pytest.approx(expected("~ age", TABLE["participant_id"] != 4, "age"), abs=1e-6)
    made = json.loads((folder / "out/provenance.json").read_text())
    assert made["left_out"] == {"sub-04": "no age"}
    assert made["samples"] == [name for name in NAMES if name != "sub-04"]
    assert (made["rows"], made["parameters"]["na"]) == ("by id", "drop")
    assert any("left out" in text for text in made["warnings"])


@pytest.mark.parametrize("listed", [("out.tsv", "5"), ("out.txt", "sub-05")])
def test_exclude_and_where(folder, listed):
    more = [item for text in listed for item in ("--exclude", text)]
    status, text = run("group", "*_con.nii", *MODEL, *more, "--where", "site == 'x'", "--output", "out")
    assert status == 0, text
    keep = (TABLE["site"] == "x") & ~TABLE["participant_id"].isin([2, 5])
    assert t_at_a_voxel("out", "intercept") == pytest.approx(expected("~ 1", keep, "Intercept"), abs=1e-6)
    assert "excluded: sub-02, sub-05; not site == 'x': sub-04" in text
    assert "no image is excluded by" in text


@pytest.mark.parametrize("who", ["sub-07", "7", "sub-07_ses-2"])
@pytest.mark.parametrize("images", ["files", "store"])
def test_exclude_by_ids_of_the_table_where_files_are_named_otherwise(folder, who, images):
    """A subject with all its sessions, or one of them: names of these files are not those of their subjects."""
    table = pd.concat([TABLE.assign(session_id=f"ses-{s}", visit=s) for s in (1, 2)], ignore_index=True)
    y = RNG.standard_normal((2 * N, 4, 4, 3))
    for values, subject, session in zip(y, table["participant_id"], table["session_id"], strict=True):
        nib.Nifti1Image(values, AFFINE).to_filename(f"{subject}_{session}_con.nii")
    table.sample(frac=1, random_state=1).to_csv("long.tsv", sep="\t", index=False)
    given, more = "*_ses-*_con.nii", ("--participants", "long.tsv", "--quiet")
    if images == "store":
        assert run("convert", given, *more, "--output", "long.zarr")[0] == 0
        given, more = "long.zarr", ("--quiet",)
    status, text = run("group", given, *more, "--exclude", who, "--formula", "~ age + C(visit)", "--contrast", "age",
                       "--output", "out")  # fmt: skip
    keep = (table["participant_id"] != 7) | ("ses" in who) & (table["visit"] == 1)
    assert (status, f"{keep.sum()} images, 3 regressors" in text) == (0, True), text
    fitted = smf.ols("y ~ age + C(visit)", table.assign(y=y[:, 1, 2, 1])[keep]).fit()
    assert t_at_a_voxel("out", "age") == pytest.approx(fitted.tvalues["age"], abs=1e-5)


def test_a_store_keeps_the_ids_of_subjects_after_whom_its_files_are_not_named(folder):
    for number, values in zip(TABLE["participant_id"], DATA, strict=True):
        nib.Nifti1Image(values, AFFINE).to_filename(f"P{number}_con.nii")
    TABLE.assign(participant_id="P" + TABLE["participant_id"].astype(str)).to_csv("p.tsv", sep="\t", index=False)
    for files in (["P1_con.nii", "P2_con.nii", "P3_con.nii"], ["P*_con.nii"]):
        assert run("convert", *files, *MODEL, "--output", "a.zarr")[0] == 0
    status, text = run("group", "a.zarr", "--exclude", "P3", "--formula", "~ age", "--contrast", "age", "--output", "g")
    assert (status, "1 of 14 images left out: excluded: P3_con" in text) == (0, True), text
    keep = TABLE["participant_id"] != 3
    assert t_at_a_voxel("g", "age") == pytest.approx(expected("~ age", keep, "age"), abs=1e-5)


def test_the_same_through_every_command(folder):
    """A store of whom is left, a plan, a model.yaml, a permutation test, and its continuation, agree."""
    status, text = run("convert", "*_con.nii", *MODEL, "--exclude", "1", "--where", "site in ['x', 'y']",
                       "--output", "all.zarr")  # fmt: skip
    assert status == 0, text
    assert "13 images converted" in text
    chosen = ("--formula", "~ age", "--contrast", "age", "--na", "drop", "--where", "age > 25")
    keep = (TABLE["age"] > 25) & ~TABLE["participant_id"].isin([1, 4])
    status, text = run("plan", "group", "all.zarr", *chosen)
    assert f"{keep.sum()} images of" in text
    assert run("group", "all.zarr", *chosen, "--output", "g", "--quiet")[0] == 0
    assert t_at_a_voxel("g", "age") == pytest.approx(expected("~ age", keep, "age"), abs=1e-4)
    (folder / "model.yaml").write_text(
        "kind: permute\nimages: all.zarr\nformula: ~ age\ncontrast: age\nna: drop\nwhere: age > 25\n"
        "exclude: [sub-01, out.txt]\noutput: p\nn-perm: 20\n"
    )
    status, text = run("run", "model.yaml", "--quiet")
    assert status == 0, text
    keep &= TABLE["participant_id"] != 2
    assert t_at_a_voxel("p", "age") == pytest.approx(expected("~ age", keep, "age"), abs=1e-4)
    before = (folder / "p/contrast-age_stat-t_statmap.nii.gz").read_bytes()
    assert run("resume", "p")[0] == 0
    assert (folder / "p/contrast-age_stat-t_statmap.nii.gz").read_bytes() == before


def test_another_choice_of_as_many_is_another_analysis(folder):
    assert run("convert", "*_con.nii", "--output", "all.zarr", "--quiet")[0] == 0
    for who in ("sub-01", "sub-02"):
        status, text = run("permute", "all.zarr", "--exclude", who, "--output", "p", "--n-perm", 20, "--quiet",
                           "--overwrite")  # fmt: skip
        assert status == 0, text
        keep = TABLE["participant_id"] != int(who[-2:])
        assert t_at_a_voxel("p", "intercept") == pytest.approx(expected("~ 1", keep, "Intercept"), abs=1e-4)
    status, text = run("permute", "all.zarr", "--exclude", "sub-03", "--output", "p", "--n-perm", 20, "--quiet")
    assert status == 2, text


def test_fewer_rows_than_images_are_refused(folder):
    TABLE.iloc[:12].to_csv("few.tsv", sep="\t", index=False)
    status, text = run("group", "*_con.nii", "--participants", "few.tsv", "--output", "out")
    assert (status, "12 rows and there are 14 images (no row: sub-13, sub-14)" in text) == (2, True)


def test_the_table_of_a_conversion_serves_after_its_quarantine(folder):
    (folder / "sub-03_con.nii").write_bytes(b"not an image")
    options = ("--on-error", "quarantine", "--output", "all.zarr")
    status, text = run("convert", "*_con.nii", *MODEL, *options)
    assert status == 0, text
    status, text = run("group", "all.zarr", *MODEL, "--formula", "~ site", "--contrast", "site", "--output", "g")
    assert status == 0, text
    assert "3 rows of the participants table have no image and are not used" in text
    keep = TABLE["participant_id"] != 3
    assert t_at_a_voxel("g", "site") == pytest.approx(expected("~ site", keep, "site[T.y]"), abs=1e-4)
    status, text = run("group", "*_con.nii", *MODEL, "--exclude", "all_quarantined.tsv", "--output", "g2")
    assert status == 0, text


def test_nobody_is_left(folder):
    status, text = run("group", "*_con.nii", *MODEL, "--where", "age > 100", "--output", "g")
    assert (status, "all 14 images are left out" in text) == (2, True)


def test_the_intercept_is_tested_where_none_is_named_and_the_model_is_the_mean(folder):
    for command in ("group", "permute"):
        status, text = run(command, "*_con.nii", "--output", command, "--quiet")
        assert status == 0, text
        assert t_at_a_voxel(command, "intercept") == pytest.approx(
            expected("~ 1", TABLE["age"] > 0, "Intercept"), abs=1e-5
        )
        status, text = run(command, "*_con.nii", *MODEL, "--formula", "~ site", "--output", "no")
        assert (status, "needs a contrast, unless it is of the mean" in text) == (2, True)


def test_a_merged_image_takes_the_rows_in_their_order_and_says_so(folder):
    nib.Nifti1Image(np.moveaxis(DATA, 0, -1), AFFINE).to_filename("merged.nii.gz")
    TABLE.to_csv("in_order.tsv", sep="\t", index=False)
    model = ("--formula", "~ age", "--contrast", "age")
    status, text = run("group", "merged.nii.gz", "--participants", "in_order.tsv", *model, "--output", "g", "--quiet")
    assert status == 0, text
    assert "have no ids: rows of the participants table (1, 2, 3, 4 and 10 more) are taken in the order" in text
    assert "rows matched by order" in text
    assert json.loads((folder / "g/provenance.json").read_text())["rows"] == "by order"
    assert t_at_a_voxel("g", "age") == pytest.approx(expected("~ age", TABLE["age"] > 0, "age"), abs=1e-6)
    status, text = run("group", "merged.nii.gz", *MODEL, *model, "--output", "no")
    assert (status, "16 rows and there are 14 images, which have no ids" in text) == (2, True)


def test_subjects_of_a_merged_image_are_left_out_by_the_ids_of_its_table(folder):
    nib.Nifti1Image(np.moveaxis(DATA, 0, -1), AFFINE).to_filename("merged.nii.gz")
    TABLE.assign(age=TABLE["age"].where(TABLE["participant_id"] != 4)).to_csv("in_order.tsv", sep="\t", index=False)
    given = ("merged.nii.gz", "--participants", "in_order.tsv", "--formula", "~ age", "--contrast", "age", "--quiet")
    status, text = run("group", *given, "--exclude", "sub-02", "--na", "drop", "--where", "age > 22",
                       "--output", "g")  # fmt: skip
    assert status == 0, text
    assert "are taken in the order" in text
    keep = ~TABLE["participant_id"].isin([2, 4]) & (TABLE["age"] > 22)
    assert t_at_a_voxel("g", "age") == pytest.approx(expected("~ age", keep, "age"), abs=1e-6)


def test_images_in_a_folder_a_subject(folder):
    for number, values in zip(TABLE["participant_id"], DATA, strict=True):
        (folder / f"maps/P{number}").mkdir(parents=True)
        nib.Nifti1Image(values, AFFINE).to_filename(f"maps/P{number}/con_0001.nii")
    table = TABLE.assign(participant_id=[f"P{k}" for k in TABLE["participant_id"]])
    table.sample(frac=1, random_state=2).to_csv("named.tsv", sep="\t", index=False)
    model = ("--participants", "named.tsv", "--formula", "~ age", "--contrast", "age", "--quiet", "--exclude", "P3")
    assert run("convert", "maps/*/con_0001.nii", "--participants", "named.tsv", "--output", "a.zarr", "--quiet")[0] == 0
    for images, output in (("maps/*/con_0001.nii", "files"), ("a.zarr", "store")):
        status, text = run("group", images, *model, "--output", output)
        assert status == 0, text
        keep = TABLE["participant_id"] != 3
        assert t_at_a_voxel(output, "age") == pytest.approx(expected("~ age", keep, "age"), abs=1e-4)
    assert pd.read_csv("store/design.tsv", sep="\t")["participant_id"].tolist()[0] == "P1"


def test_several_visits_a_subject(folder):
    for session in (1, 2):
        for name, values in zip(NAMES, DATA, strict=True):
            nib.Nifti1Image(values + session * RNG.standard_normal(DATA.shape[1:]), AFFINE).to_filename(
                f"long_{name}_ses-{session}_con.nii"
            )
    table = pd.concat([TABLE.assign(session_id=f"ses-0{s}", visit=s, age=TABLE["age"] + s) for s in (1, 2)])
    table.sample(frac=1, random_state=1).to_csv("long.tsv", sep="\t", index=False)
    given = ("--participants", "long.tsv", "--quiet")
    status, text = run("convert", "long_*.nii", *given, "--output", "long.zarr")
    assert status == 0, text
    y = np.concatenate(
        [[nib.load(f"long_{name}_ses-{s}_con.nii").get_fdata()[1, 2, 1] for name in NAMES] for s in (1, 2)]
    )
    fitted = smf.ols("y ~ visit + C(participant_id)", table.assign(y=y)).fit()
    for images, output in (("long_*.nii", "files"), ("long.zarr", "store")):
        more = given if images.endswith("nii") else ("--quiet",)
        status, text = run("group", images, *more, "--formula", "~ visit + C(participant_id)", "--contrast", "visit",
                           "--output", output)  # fmt: skip
        assert (status, "warning" in text) == (0, False), text
        assert t_at_a_voxel(output, "visit") == pytest.approx(fitted.tvalues["visit"], abs=1e-4)
        status, text = run("group", images, *more, "--formula", "~ age", "--contrast", "age", "--output", f"{output}-2")
        assert (status, "14 subjects have several images" in text) == (0, True), text
    permute = ("permute", "long.zarr", "--formula", "~ visit", "--contrast", "visit", "--n-perm", 5, "--quiet")
    assert "several images" not in run(*permute, "--within", "participant_id", "--output", "w")[1]
    assert "several images" in run(*permute, "--output", "x")[1]


def test_a_condition_chooses_one_of_several_rows_of_a_subject(folder):
    """Files that do not say of which visit they are, and files of both."""
    visits = pd.concat([TABLE.assign(session_id=f"ses-{s}", age=TABLE["age"] + s**2 * TABLE.index) for s in (1, 2)])
    visits.sample(frac=1, random_state=4).to_csv("visits.tsv", sep="\t", index=False)
    for session in (1, 2):
        for name, values in zip(NAMES, DATA, strict=True):
            nib.Nifti1Image(values * session**0.5, AFFINE).to_filename(f"both_{name}_ses-{session}_con.nii")
    given = ("--participants", "visits.tsv", "--formula", "~ age", "--contrast", "age", "--quiet")
    status, text = run("group", "sub-*_con.nii", *given, "--output", "no")
    assert (status, "occur more than once; keep one row each" in text) == (2, True)
    second = visits["session_id"] == "ses-2"
    wanted = smf.ols("y ~ age", visits[second].assign(y=DATA[:, 1, 2, 1])).fit().tvalues["age"]
    for images, output in (("sub-*_con.nii", "one"), ("both_*.nii", "two")):
        status, text = run("group", images, *given, "--where", "session_id == 'ses-2'", "--output", output)
        assert status == 0, text
        assert "several images" not in text
        assert t_at_a_voxel(output, "age") == pytest.approx(wanted, abs=1e-5)
