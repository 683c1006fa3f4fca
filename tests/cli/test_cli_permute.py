"""The command permute: what it writes, and how it goes on."""

import json
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_cli import run

from daskglm.graph import permutation as graph


def permute(cohort, output, *more, images=None):
    model = ["--participants", cohort.table_path, "--formula", "~ age + sex", "--n-perm", "200"]
    return run("permute", *(images or cohort.paths), *model, "--output", output, *more)


def read(output, name):
    return np.asarray(nib.load(output / f"{name}_statmap.nii.gz").dataobj)


def test_permute_writes_everything(cohort, tmp_path):
    output = tmp_path / "out"
    contrasts = ["--contrast", "age", "--f-contrast", "both=age, sex"]
    status, text = permute(cohort, output, *contrasts, "--tfce", "--cluster-threshold", "0.01")
    assert status == 0
    names = {name for name in os.listdir(output) if not name.startswith(".")}
    ends = ["{}", "{}logp", "{}logq", "{}logpmax", "{}zmax", "{}logpacross", "size", "sizelogpmax", "mass"]
    ends += ["masslogpmax", "tfce", "tfcelogp", "tfcelogpmax"]
    expected = {
        "design.tsv",
        "n.nii.gz",
        "mask.nii.gz",
        "thresholds.tsv",
        "clusters.tsv",
        "dataset_description.json",
        "provenance.json",
    }
    for label, stat in (("age", "t"), ("both", "F")):
        expected |= {f"contrast-{label}_stat-{end.format(stat)}_statmap.nii.gz" for end in ends}
        expected |= {f"contrast-{label}_nulls.tsv"}
    assert names == expected
    nulls = pd.read_csv(output / "contrast-age_nulls.tsv", sep="\t")
    assert list(nulls) == ["h0_max_stat", "h0_max_size", "h0_max_mass", "h0_max_tfce"]
    assert len(nulls) == 200
    t, logp = read(output, "contrast-age_stat-t"), read(output, "contrast-age_stat-tlogpmax")
    p = (1 + (nulls["h0_max_stat"].to_numpy()[:, None] >= np.abs(t[cohort.mask])).sum(axis=0)) / 201
    np.testing.assert_allclose(10 ** -logp[cohort.mask], p, rtol=1e-6)
    thresholds = pd.read_csv(output / "thresholds.tsv", sep="\t").set_index(["contrast", "statistic"])
    row = thresholds.loc[("age", "t")]
    # At most 9 of 200 may reach what has p <= 10 / 201.
    assert row["threshold"] == pytest.approx(np.sort(nulls["h0_max_stat"])[-10], rel=1e-6)
    assert row["voxels"] == (p <= 0.05).sum()
    made = json.loads((output / "provenance.json").read_text())
    assert made["rearrangements"] == {"done": 200, "exhaustive": False, "kind": "permutation"}
    assert made["parameters"]["threshold"] == 0.01
    assert {"mask", "missing", "min_coverage", "smoothing_fwhm"} <= set(made["parameters"])
    assert "12 images, 3 regressors; 90 voxels (n from 12 to 12); 200 random rearrangements" in text


@pytest.mark.parametrize("n_perm", [10, 19, 30, 50])
def test_what_exceeds_the_threshold_has_a_corrected_p_of_5_percent(cohort, tmp_path, n_perm):
    options = ["--contrast", "age", "--tfce", "--cluster-threshold", "0.05", "--n-perm", n_perm]
    assert permute(cohort, tmp_path / "out", *options)[0] == 0
    nulls = pd.read_csv(tmp_path / "out" / "contrast-age_nulls.tsv", sep="\t")
    table = pd.read_csv(tmp_path / "out" / "thresholds.tsv", sep="\t").set_index("statistic")["threshold"]
    for statistic, column in (("t", "stat"), ("size", "size"), ("mass", "mass"), ("tfce", "tfce")):
        null = nulls[f"h0_max_{column}"].to_numpy()
        # Everything that a map can hold: what the nulls reach, and values between.
        values = np.unique(np.concatenate([null, null + 1e-3, null - 1e-3]))
        p = (1 + (null >= values[:, None]).sum(axis=1)) / (1 + n_perm)
        assert np.array_equal(p <= 0.05, values > table[statistic])
    if n_perm == 10:
        assert run("report", tmp_path / "out")[0] == 0
        assert "a corrected p of 5% takes more rearrangements" in (tmp_path / "out" / "report.html").read_text()


def test_the_same_again_with_more_adds(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_UNIT", (64, 64))
    store = tmp_path / "all.zarr"
    assert run("convert", *cohort.paths, "--participants", cohort.table_path, "--output", store)[0] == 0
    output, direct = tmp_path / "out", tmp_path / "direct"
    calls = []
    original = graph._permute_block
    monkeypatch.setattr(graph, "_permute_block", lambda *given: calls.append(len(given[2][0])) or original(*given))
    assert permute(cohort, output, "--contrast", "age", images=[store])[0] == 0
    calls.clear()
    status, text = permute(cohort, output, "--contrast", "age", "--n-perm", "500", images=[store])
    assert status == 0
    assert sum(calls) == 500 - 192
    assert "500 random rearrangements" in text
    assert permute(cohort, direct, "--contrast", "age", "--n-perm", "500", images=[store])[0] == 0
    for name in os.listdir(direct):
        if name.endswith(".nii.gz"):
            one, other = (np.asarray(nib.load(folder / name).dataobj) for folder in (output, direct))
            assert np.array_equal(one, other, equal_nan=True), name
    # Another analysis does not go there unasked, and does not mix.
    status, text = permute(cohort, output, "--contrast", "sex", images=[store])
    assert status == 2
    assert "--overwrite" in text
    assert permute(cohort, output, "--contrast", "sex", "--overwrite", images=[store])[0] == 0
    assert not [name for name in os.listdir(output) if "age" in name]


@pytest.mark.filterwarnings("default")
def test_blocks_come_from_the_participants(cohort, tmp_path):
    site = ["a", "b", "c"] * 4
    cohort.table.assign(site=site).to_csv(cohort.table_path, sep="\t", index=False)
    outputs = []
    for more in ([], ["--within", "site"], ["--whole", "site"]):
        output = tmp_path / f"out{len(outputs)}"
        assert permute(cohort, output, "--contrast", "age", *more)[0] == 0
        outputs.append(pd.read_csv(output / "contrast-age_nulls.tsv", sep="\t")["h0_max_stat"].to_numpy())
    assert len(outputs[2]) == 5  # three blocks have six orders
    assert not np.array_equal(outputs[0], outputs[1])


@pytest.mark.filterwarnings("default")
def test_a_mean_is_tested_by_sign_flips(cohort, tmp_path):
    output = tmp_path / "out"
    status, text = run("permute", *cohort.paths, "--contrast", "intercept", "--n-perm", "9999", "--output", output)
    assert status == 0
    assert "all 4095 others are done" in text
    assert "all 4,095 distinct rearrangements" in text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--contrast", "agee"], "agee"),
        (["--contrast", "age", "--within", "town"], "no column 'town'. There are"),
        (["--contrast", "age", "--scheme", "shuffle"], "scheme must be"),
        (["--contrast", "age", "--cluster-threshold", "3.1"], "between 0 and 1"),
        ([], "a permutation analysis needs a contrast"),
        (["--contrast", "age", "--contrast", "intercept"], "apart"),
    ],
)
def test_bad_input_is_one_line(cohort, tmp_path, more, message):
    status, text = permute(cohort, tmp_path / "out", *more)
    assert status == 2
    assert message in text
    assert text.count("\n") == 1


def test_a_t_contrast_of_several_columns_is_refused(cohort, tmp_path):
    """It was tested as an F, and written as stat-t."""
    status, text = permute(cohort, tmp_path / "out", "--contrast", "both=age, sex")
    assert (status, "a t contrast has one row, but 'both' has 2, of age, sex[T.M]" in text) == (2, True)
    plan = ["--participants", cohort.table_path, "--formula", "~ age + sex", "--contrast", "both=age, sex"]
    status, text = run("plan", "permute", *cohort.paths, *plan)
    assert (status, "ask for F, which tests them together (--f-contrast" in text) == (2, True)


@pytest.mark.filterwarnings("default")
def test_what_variance_groups_leave_out_is_in_warnings_summary_and_report(cohort, tmp_path):
    cohort.table.assign(site=["a", "b"] * 6).to_csv(cohort.table_path, sep="\t", index=False)
    image = nib.load(cohort.paths[0])
    values = image.get_fdata(dtype=np.float32)
    values[tuple(index[:7] for index in np.nonzero(cohort.mask))] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), cohort.paths[0])
    output, groups = tmp_path / "out", ["--variance-groups", "site", "--within", "site"]
    status, text = permute(cohort, output, "--contrast", "age", *groups)
    assert status == 0
    told = "7 of 90 voxels lack images of some subjects and are not tested"
    assert told in " ".join(text.split())
    assert "7 voxels left out" in text
    assert any(told in warning for warning in json.loads((output / "provenance.json").read_text())["warnings"])
    assert {"contrast-age_stat-tscaled_statmap.nii.gz"} <= set(os.listdir(output))
    assert np.isnan(read(output, "contrast-age_stat-t")[cohort.mask]).sum() == 7
    status, _ = run("report", output)
    assert status == 0
    page = " ".join((output / "report.html").read_text().split())
    assert told in page
    assert "z by the degrees of freedom of each rearrangement" in page


@pytest.mark.filterwarnings("default")
def test_the_summary_says_what_a_false_discovery_rate_takes(cohort, tmp_path):
    status, text = permute(cohort, tmp_path / "out", "--contrast", "age")
    assert status == 0
    # 90 / (0.05 * 201) = 8.96
    assert "at least 9 voxels have the smallest p" in " ".join(text.split())
