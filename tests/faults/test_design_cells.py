"""Faulty designs: six faults, each a named error before an image is read; rows in another order change no bit."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import daskglm
from daskglm import SecondLevelModel
from daskglm.cli.main import main
from daskglm.errors import ContrastError, DaskGLMError, DesignError, ImageError
from daskglm.models.group import group_analysis
from daskglm.models.permutation_analysis import permutation_analysis


@pytest.fixture
def unread(monkeypatch):
    """Images that cannot be read: whatever is wrong has to be found before."""

    def read(path, *_):
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr("daskglm.graph.images.read_values", read)


def with_column(cohort, **columns):
    return cohort.table.assign(**columns)


def one_more(cohort, name):
    return pd.concat([cohort.table, cohort.table.iloc[:1].assign(participant_id=name)])


# Fault -> table, formula, contrasts, the error and what it names.
AGE = {"age": "age"}
CELLS = {
    "no ids": (lambda c: c.table.drop(columns="participant_id"), "~ age", AGE, DesignError, "participant_id"),
    "ids in the index only": (
        lambda c: c.table.drop(columns="participant_id").set_axis(range(12)), "~ age", AGE, DesignError,
        "participant_id",
    ),
    "duplicate subject": (lambda c: one_more(c, "sub-03"), "~ age", AGE, DesignError, "sub-03 .*more than once"),
    "same subject, with and without sub-": (
        lambda c: one_more(c, "03"), "~ age", AGE, DesignError, "sub-03, 03 .*more than once",
    ),
    "subject without row": (lambda c: c.table.iloc[:-1], "~ age", AGE, DesignError, "no row: sub-12"),
    "both": (
        lambda c: with_column(c, participant_id=[*c.names[:11], "sub-77"]), "~ age", AGE, DesignError,
        "no row: sub-12; no image: sub-77",
    ),
    "NaN covariate": (
        lambda c: with_column(c, age=c.table["age"].where(c.table.index != 4)), "~ age", AGE, DesignError,
        "'age'.*sub-05",
    ),
    "infinite covariate": (
        lambda c: with_column(c, age=c.table["age"].where(c.table.index != 4, np.inf)), "~ age", AGE, DesignError,
        "age.*sub-05",
    ),
    "missing group": (
        lambda c: with_column(c, sex=c.table["sex"].where(c.table.index != 4)), "~ sex", {"sex": "sex"}, DesignError,
        "'sex'.*sub-05",
    ),
    "rank-deficient": (
        lambda c: with_column(c, months=c.table["age"] * 12), "~ age + months", AGE, DaskGLMError,
        "age, months.*dependent|'age' is not estimable",
    ),
    "unknown regressor": (lambda c: c.table, "~ age", {"x": "agee"}, ContrastError, "'agee'.*did you mean 'age'"),
    "null contrast": (lambda c: c.table, "~ age", {"x": "age - age"}, ContrastError, "null"),
    "labels a_b and aB": (
        lambda c: c.table, "~ age", {"a_b": "age", "aB": "age"}, ContrastError, "'a_b' and 'aB'.*contrast-aB",
    ),
    "labels Age and age": (
        lambda c: c.table, "~ age", {"Age": "age", "age": "age"}, ContrastError, "'Age' and 'age'.*contrast-age",
    ),
    "labels of F and t": (
        lambda c: c.table, "~ age", {"a b": "age", "a-b": "age", "aMinusB": "age"}, ContrastError, "would both be",
    ),
    "label of nothing": (lambda c: c.table, "~ age", {"...": "age"}, ContrastError, "letter or digit"),
}  # fmt: skip


@pytest.mark.parametrize("analysis", [group_analysis, permutation_analysis], ids=["group", "permute"])
@pytest.mark.parametrize("source", ["files", "files, mask to be found", "store"])
@pytest.mark.parametrize("fault", CELLS)
def test_refused_before_images_are_read(request, cohort, tmp_path, source, fault, analysis):
    make, formula, contrasts, kind, message = CELLS[fault]
    images, mask = cohort.paths, cohort.mask_img if source == "files" else None
    if source == "store":
        images = str(tmp_path / "all.zarr")
        daskglm.convert(cohort.paths, images, mask=cohort.mask_img)
        # Without its chunks of data a store can say who is in it, but no more.
        for chunk in (tmp_path / "all.zarr" / "data" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
    request.getfixturevalue("unread")
    output = tmp_path / "out"
    with pytest.raises(kind, match=message):
        analysis(images, str(output), formula, contrasts, participants=make(cohort), mask=mask)
    assert not output.exists() or [path for path in output.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("fault", ["no ids", "duplicate subject", "both", "NaN covariate", "labels Age and age"])
def test_command(cohort, tmp_path, unread, fault):
    make, formula, contrasts, _, message = CELLS[fault]
    table = tmp_path / "table.tsv"
    make(cohort).to_csv(table, sep="\t", index=False, na_rep="n/a")
    named = [part for name, text in contrasts.items() for part in ("--contrast", f"{name}={text}")]
    given = ["group", *cohort.paths, "--participants", table, "--formula", formula, *named, "--output", tmp_path / "o"]
    done = CliRunner().invoke(main, list(map(str, given)))
    assert done.exit_code == 2
    assert re.search(f"daskglm: .*{message}", done.output), done.output


@pytest.mark.parametrize("fault", ["no ids", "duplicate subject", "both"])
def test_conversion(cohort, tmp_path, unread, fault):
    make, *_, kind, message = CELLS[fault]
    with pytest.raises(kind, match=message):
        daskglm.convert(cohort.paths, str(tmp_path / "all.zarr"), participants=make(cohort))
    assert not (tmp_path / "all.zarr").exists()


def test_two_images_of_one_subject(cohort, tmp_path, unread):
    other = Path(cohort.paths[0].replace("sub-01_", "sub-01_run-2_"))
    other.write_bytes(Path(cohort.paths[0]).read_bytes())
    with pytest.raises(ImageError, match="sub-01"):
        daskglm.convert([*cohort.paths, str(other)], str(tmp_path / "all.zarr"))
    with pytest.raises(DaskGLMError, match="sub-01"):
        group_analysis([*cohort.paths, str(other)], str(tmp_path / "o"), "~ age", AGE, participants=cohort.table)


@pytest.mark.parametrize("allow", [False, True])
def test_not_estimable(cohort, unread, monkeypatch, allow):
    design = cohort.design.assign(female=1 - cohort.design["male"])
    model = SecondLevelModel(mask_img=cohort.mask_img if allow else None, allow_rank_deficient=allow)
    if not allow:
        with pytest.raises(DesignError, match=r"male, intercept, female .* dependent"):
            model.fit(cohort.paths, design_matrix=design)
        return
    monkeypatch.undo()
    model.fit(cohort.paths, design_matrix=design)
    with pytest.raises(ContrastError, match="'male' is not estimable"):
        model.compute_contrast("male")


def maps_of(folder):
    return {path.name: np.asarray(nib.load(path).dataobj).tobytes() for path in folder.glob("*.nii.gz")}


@pytest.mark.parametrize("prefixed", [True, False], ids=["sub-01", "01"])
@pytest.mark.parametrize("where", ["files", "store", "the store's own table"])
def test_shuffled_rows(cohort, tmp_path, where, prefixed):
    order = np.roll(np.arange(12)[::-1], 3)
    shuffled = cohort.table.iloc[order].reset_index(drop=True)
    if not prefixed:
        shuffled["participant_id"] = shuffled["participant_id"].str.removeprefix("sub-")
    images, tables = cohort.paths, {"straight": cohort.table, "shuffled": shuffled}
    for name, table in tables.items():
        if where != "files":
            images = str(tmp_path / f"{name}.zarr")
            own = table if where == "the store's own table" else None
            daskglm.convert(cohort.paths, images, participants=own, mask=cohort.mask_img)
        given = None if where == "the store's own table" else table
        group_analysis(images, str(tmp_path / name), "~ age + sex", AGE, participants=given,
                       mask=None if where != "files" else cohort.mask_img)  # fmt: skip
    found = maps_of(tmp_path / "straight")
    assert len(found) == 7
    assert maps_of(tmp_path / "shuffled") == found


def test_shuffled_design_with_ids(cohort):
    order = np.roll(np.arange(12)[::-1], 3)
    design = cohort.design.set_index(pd.Index(cohort.names))
    model = SecondLevelModel(mask_img=cohort.mask_img)
    z = [model.fit(cohort.paths, design_matrix=d).compute_contrast("age") for d in (design, design.iloc[order])]
    assert np.array_equal(z[0].dataobj, z[1].dataobj, equal_nan=True)
