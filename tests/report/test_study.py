"""The page of a study: rows from result folders, held against the maps that they speak of."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from cohorts import Cohort
from matplotlib.image import imread
from test_page import HOSTILE, Parsed

import daskglm
from daskglm.errors import OutputError, ParameterError
from daskglm.io.files import read_bytes, write_bytes
from daskglm.report import study
from daskglm.report.study import study_report
from daskglm.schema.names import bids_labels


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A folder of three result folders: group, permute and first-level, the first with a report."""
    root = tmp_path_factory.mktemp("study")
    (root / "maps").mkdir()
    cohort = Cohort(root / "maps", 12)
    given = {"participants": cohort.table_path, "mask": cohort.mask_img}
    contrasts = {"age": "age", HOSTILE: "sex[T.M]"}
    daskglm.group_analysis(cohort.paths, str(root / "thick ness#1"), "~ age + sex", contrasts, **given)
    (root / "thick ness#1" / "report.html").write_text("<!doctype html>")
    daskglm.permutation_analysis(
        cohort.paths, str(root / "permuted"), "~ age + sex", {"age": "age"}, n_perm=20, tfce=True, **given
    )
    (root / "first" / "sub-01").mkdir(parents=True)
    (root / "first" / "sub-02").mkdir()
    (root / "first" / "first_level.json").write_text(json.dumps({"contrasts": {"a - b": "a - b"}}))
    return root


def table(path: Path) -> pd.DataFrame:
    """The table of a study page, as text."""
    parsed = Parsed(path.read_text("utf-8"))
    head = [text for attrs, text in parsed.all("th") if attrs["scope"] == "col"]
    rows: list[list[str]] = []
    for tag, attrs, texts in parsed.elements:
        if tag == "th" and attrs["scope"] == "row":
            rows.append([])
        if rows and tag in ("th", "td"):
            rows[-1].append("".join(texts))
        if rows and tag == "a":
            rows[-1][-1] = "".join(texts)
    return pd.DataFrame(rows, columns=head)


@pytest.fixture(scope="module")
def page(results) -> Path:
    path = results / "pages" / "study.html"
    folders = [str(results / name) for name in ("thick ness#1", "permuted", "first")]
    assert study_report(folders, str(path)) == str(path)
    return path


def test_a_contrast_of_a_group_analysis_is_described_by_its_strongest_voxel(page, results):
    shown = table(page).set_index(["Result", "Contrast"])
    for contrast, label in bids_labels(["age", HOSTILE]).items():
        row = shown.loc[("thick ness#1", contrast)]
        z = nib.load(results / "thick ness#1" / f"contrast-{label}_stat-z_statmap.nii.gz")
        t = nib.load(results / "thick ness#1" / f"contrast-{label}_stat-t_statmap.nii.gz").get_fdata()
        values = np.nan_to_num(z.get_fdata())
        place = np.unravel_index(np.abs(values).argmax(), values.shape)
        assert float(row["z"]) == pytest.approx(values[place], rel=1e-3)
        assert float(row["Extreme"]) == pytest.approx(t[place], rel=1e-3)
        assert [float(x) for x in row["At x, y, z (mm)"].split(",")] == list(nib.affines.apply_affine(z.affine, place))
        assert (row["Kind"], row["n"], row["Statistic"], row["Corrected p"]) == ("group", "12", "t", "")


def test_a_contrast_of_permutations_has_a_row_a_statistic_with_its_corrected_p(page, results):
    shown = table(page)
    rows = shown[shown["Result"] == "permuted"]
    logp = nib.load(results / "permuted" / "contrast-age_stat-tlogpmax_statmap.nii.gz").get_fdata()
    tfce = nib.load(results / "permuted" / "contrast-age_stat-tfcelogpmax_statmap.nii.gz").get_fdata()
    assert list(rows["Kind"]) == ["permutations"] * 2
    for text, voxels, found in zip(rows["Corrected p"], rows["Voxels at 5%"], (logp, tfce), strict=True):
        assert float(text) == pytest.approx(10 ** -found.max(), rel=1e-3)
        assert int(voxels) == (found >= -np.log10(0.05) - 1e-6).sum()


def test_a_first_level_analysis_has_its_contrasts_and_subjects(page):
    shown = table(page).set_index("Result").loc["first"]
    assert (shown["Contrast"], shown["Kind"], shown["n"]) == ("a - b", "first level", "2")


def test_only_folders_with_a_report_have_links_which_lead_there(page):
    links = [attrs["href"] for attrs, _ in Parsed(page.read_text("utf-8")).all("a")][1:]
    assert links == ["../thick%20ness%231/report.html"] * 2
    assert (page.parent / unquote(links[0])).is_file()


def test_links_within_a_bucket_are_relative_and_others_lead_to_the_web_alone(monkeypatch):
    monkeypatch.setattr(study, "exists", lambda path: True)
    link = study._reports("s3://bucket/study/index.html")
    assert link("s3://bucket/out/javascript:alert(1)") == "../out/javascript%3Aalert%281%29/report.html"
    assert link("https://host/a b") == "https://host/a%20b/report.html"
    assert link("gs://bucket/out") == ""
    assert link("https://me:secret@host/out") == ""
    assert study._reports("study.html")("javascript:alert(1)") == "javascript%3Aalert%281%29/report.html"


def test_results_and_page_may_be_in_a_bucket(bucket, results):
    for name in ("provenance.json", "peaks.tsv", "report.html"):
        write_bytes(f"{bucket.url}/out/a b/{name}", (results / "thick ness#1" / name).read_bytes())
    study_report([f"{bucket.url}/out/a b/"], f"{bucket.url}/pages/study.html")
    parsed = Parsed(read_bytes(f"{bucket.url}/pages/study.html").decode())
    assert [attrs["href"] for attrs, _ in parsed.all("a")][1:] == ["../out/a%20b/report.html"] * 2
    assert [text for attrs, text in parsed.all("th") if attrs["scope"] == "row"] == ["a b"] * 2
    # Maps in a bucket are not fetched for their pictures.
    assert parsed.all("img") == []


def test_a_picture_shows_where_the_largest_value_is(page, results):
    images = [attrs for attrs, _ in Parsed(page.read_text("utf-8")).all("img")]
    assert len(images) == 3
    assert HOSTILE in images[1]["alt"]
    picture = imread(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2])))
    assert (int(images[0]["width"]), int(images[0]["height"])) == picture.shape[1::-1] == (8 + 3 + 7 + 3 + 7 + 3, 8)
    z = nib.as_closest_canonical(nib.load(results / "thick ness#1" / "contrast-age_stat-z_statmap.nii.gz"))
    values = np.nan_to_num(z.get_fdata())
    x, y, z = np.unravel_index(np.abs(values).argmax(), values.shape)
    # From the side: to the right is the front, and down the picture is down.
    red, green, blue = picture[7 - z, y, :3]
    assert abs(values[x, y, z]) > 3.09
    assert (red > blue) == (values[x, y, z] > 0)
    assert max(red, blue) > green


@pytest.mark.parametrize("length", [64, 65, 200])
def test_a_smaller_volume_keeps_the_extremes(length):
    volume = np.zeros((length, 9, 10), np.float32)
    volume[3, 4, 5], volume[-1, 0, 0], volume[0, 0, 0] = -7, 5, np.nan
    small = study._smaller(volume)
    assert small.shape[0] <= 64
    assert (np.nanmin(small), np.nanmax(small)) == (-7, 5)
    assert np.isfinite(small).sum() == 2


def test_pictures_that_are_too_much_are_left_out(results, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_PICTURES", 500)
    study_report([str(results / "thick ness#1")], str(tmp_path / "study.html"))
    assert not Parsed((tmp_path / "study.html").read_text("utf-8")).all("img")


def test_columns_that_nothing_fills_are_left_out(results, tmp_path):
    study_report([str(results / "first")], str(tmp_path / "study.html"))
    assert list(table(tmp_path / "study.html").columns) == ["Result", "Contrast", "Kind", "n"]


def test_results_that_have_one_name_are_told_apart(results, tmp_path):
    for name in ("a/out", "b/out"):
        shutil.copytree(results / "first", tmp_path / name)
    study_report([str(tmp_path / "a" / "out"), f"{tmp_path}/b/out/"], str(tmp_path / "study.html"))
    assert list(table(tmp_path / "study.html")["Result"]) == ["a/out", "b/out"]


@pytest.mark.parametrize("name", ["01", "NA", "n/a", "1e3", 'a\t"b"'])
def test_names_that_look_like_values_stay_names(name, results, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    peaks = pd.DataFrame({"contrast": [name], "x": [1.0], "y": [2.0], "z": [3.0], "stat_type": ["t"], "stat": [4.5],
                          "z_score": [3.25]})  # fmt: skip
    peaks.to_csv(folder / "peaks.tsv", sep="\t", index=False)
    said = {"parameters": {"contrasts": {name: {}}}, "samples": ["sub-01"], "files": ["peaks.tsv"]}
    (folder / "provenance.json").write_text(json.dumps(said))
    study_report([str(folder)], str(tmp_path / "study.html"))
    row = table(tmp_path / "study.html").iloc[0]
    assert (row["Contrast"], row["z"], row["At x, y, z (mm)"]) == (name, "3.25", "1, 2, 3")


def test_what_is_no_result_is_refused(results, tmp_path):
    output = str(tmp_path / "study.html")
    with pytest.raises(ParameterError, match="none was given; name one or more"):
        study_report([], output)
    with pytest.raises(ParameterError, match=r"has no provenance\.json .*give the output of daskglm group"):
        study_report([str(results / "first"), str(results / "maps")], output)
    (tmp_path / "odd").mkdir()
    for text in ("{", "[]", '{"parameters": {}}', '{"parameters": {"contrasts": {}}, "samples": 3, "files": []}'):
        (tmp_path / "odd" / "provenance.json").write_text(text)
        with pytest.raises(ParameterError, match=r"is not as daskglm writes it .*leave this folder out"):
            study_report([str(tmp_path / "odd")], output)
    assert not Path(output).exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write the page"):
        study_report([str(results / "first")], str(tmp_path / "file" / "study.html"))
