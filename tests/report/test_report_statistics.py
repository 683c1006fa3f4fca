"""Reports of permutation tests show each statistic that was tested, and say of none what is true of another."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from report_pages import Page
from scipy import ndimage, stats

import daskglm

SHAPE, AFFINE, N = (10, 10, 10), np.diag([3.0, 3.0, 3.0, 1.0]), 14
STATISTICS = {"t": "corrected p ≤", "size": "of cluster size", "mass": "of cluster mass", "tfce": "of TFCE"}


def permuted(folder, seed, **test):
    """A one-sample test of an effect that is wide and weak."""
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((N, *SHAPE))
    data[:, 2:6, 2:6, 2:6] += 0.55 if seed else 0.0
    for k, values in enumerate(data):
        nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), folder / f"sub-{k:02d}.nii")
    daskglm.permutation_analysis(
        str(folder / "sub-*.nii"), folder / "out", "~ 1", {"mean": "intercept"}, mask=False, n_perm=200,
        random_state=0, **test,
    )  # fmt: skip
    return folder / "out"


def read(folder, end):
    return np.nan_to_num(nib.load(folder / f"contrast-mean_stat-{end}_statmap.nii.gz").get_fdata())


# Of voxels nothing is significant; of clusters, and by TFCE, some is, or none.
@pytest.mark.parametrize("seed", [10, 2, 0])
def test_each_statistic_is_shown(tmp_path, seed):
    folder = permuted(tmp_path, seed, tfce=True, threshold=0.01)
    page = Page(daskglm.generate_report(folder, plot_type="glass", bg_img=None).html)
    text, pictures = page.sections["mean"], page.images["mean"]
    counts = {name: int((read(folder, f"{name}logpmax") >= -np.log10(0.05) - 1e-9).sum()) for name in STATISTICS}
    if seed:
        assert counts["t"] == 0
        assert max(counts.values()) > 0
    assert ("Nothing is significant" in text) == (not any(counts.values()))
    for name, rule in STATISTICS.items():
        shown = [alt for alt in pictures if f"corrected p {rule}" in alt or (name == "t" and rule in alt)]
        assert any(f"({counts[name]:,} voxels)" in alt for alt in shown) == (counts[name] > 0)
        p = 10 ** -read(folder, f"{name}logpmax").max()
        numbers = page.numbers("Permutation thresholds", "Its corrected p")
        assert np.isclose(numbers.iloc[list(STATISTICS).index(name)], p, rtol=1e-3)
    table = page.table("Clusters tested of mean")
    clusters = pd.read_csv(folder / "clusters.tsv", sep="\t")
    assert np.allclose(table["p of size"].astype(float), clusters["p_size"][: len(table)], rtol=1e-3)
    assert "200 random sign flips" in page.sections["Methods"]


def test_the_table_of_clusters(tmp_path):
    """Clusters by scipy, their p counted in the null distributions."""
    folder = permuted(tmp_path, 10, tfce=True, threshold=0.01)
    clusters, nulls = (pd.read_csv(folder / name, sep="\t") for name in ("clusters.tsv", "contrast-mean_nulls.tsv"))
    t, cut = read(folder, "t"), stats.t.isf(0.01 / 2, N - 1)
    expected = []
    for sign in (1, -1):
        labels, count = ndimage.label(sign * t > cut)
        for label in range(1, count + 1):
            inside = labels == label
            size, mass = inside.sum(), (np.abs(t[inside]) - cut).sum()
            peak = np.argmax(np.where(inside, np.abs(t), 0))
            p = [(1 + (nulls[f"h0_max_{name}"] >= value * (1 - 1e-6)).sum()) / 201
                 for name, value in (("size", size), ("mass", mass), ("stat", np.abs(t[inside]).max()))]  # fmt: skip
            expected.append((size, mass, "+" if sign > 0 else "-", *(3.0 * np.array(np.unravel_index(peak, SHAPE))),
                             t.ravel()[peak], *p))  # fmt: skip
    expected = sorted(expected, key=lambda row: (-row[0], -row[1]))
    columns = ["voxels", "mass", "sign", "x", "y", "z", "peak", "p_size", "p_mass", "p_voxel"]
    assert len(clusters) == len(expected) > 3
    assert clusters["sign"].tolist() == [row[2] for row in expected]
    for index, column in enumerate(columns):
        if column != "sign":
            assert np.allclose(clusters[column], [row[index] for row in expected], atol=2e-3), column
    assert (clusters["mm3"] == 27 * clusters["voxels"]).all()
    assert clusters["p_tfce"].min() == pytest.approx(10 ** -read(folder, "tfcelogpmax").max(), rel=1e-4)


def test_without_clusters_there_is_no_table_of_them(tmp_path):
    folder = permuted(tmp_path, 10)
    assert not (folder / "clusters.tsv").exists()
    page = Page(daskglm.generate_report(folder, plot_type="glass", bg_img=None).html)
    assert "Nothing is significant (corrected p ≤ 0.05)" in page.sections["mean"]
    assert "cluster" not in page.sections["Methods"].lower()
