"""What a message advises exists, in the interface in use, and helps."""

import ast
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import daskglm
from daskglm.cli.main import main
from daskglm.errors import DesignError, ImageError, SpaceError

PACKAGE = Path(__file__).parents[1] / "daskglm"


def run(*arguments):
    done = CliRunner().invoke(main, [str(item) for item in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, " ".join(done.output.split())


def options_of(command):
    """Options of a command."""
    return {text for param in main.commands[command].params for text in param.opts}


def advised_options():
    """Each option of the command line in a text of the package but its command line, which click checks."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name in ("cli", "cluster"):  # a cluster's are those of dask and job queues
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                yield from ((path.name, text) for text in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", node.value))


def test_options_that_messages_advise_exist():
    known = {text for command in main.commands for text in options_of(command)}
    advised = set(advised_options())
    assert len(advised) > 10
    assert {item for item in advised if item[1] not in known} == set()


@pytest.fixture(scope="module")
def dependent(tmp_path_factory):
    """Twelve images, and a table in which one column is twice another."""
    folder = tmp_path_factory.mktemp("dependent")
    rng = np.random.default_rng(0)
    data = rng.standard_normal((12, 3, 3, 2))
    for k, values in enumerate(data):
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"sub-{k:02d}.nii")
    age = rng.uniform(20, 80, 12).round(1)
    sex = rng.standard_normal(12).round(3)
    table = pd.DataFrame(
        {"participant_id": [f"sub-{k:02d}" for k in range(12)], "age": age, "twice": 2 * age, "x": sex}
    )
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return folder, table, data.reshape(12, -1)


def expected_t(table, data):
    """t of x, beside age and the constant."""
    import statsmodels.api as sm

    design = np.column_stack([table["x"], table["age"], np.ones(12)])
    return np.array([sm.OLS(values, design).fit().tvalues[0] for values in data.T])


@pytest.mark.parametrize("command", ["group", "permute"])
def test_dependent_columns_on_the_command_line(dependent, tmp_path, command):
    folder, table, data = dependent
    given = [command, folder / "sub-*.nii", "--participants", folder / "participants.tsv", "--formula",
             "~ x + age + twice", "--contrast", "x", "--output", tmp_path / "out", "--quiet",
             "--no-report"]  # fmt: skip
    given += ["--n-perm", 10] if command == "permute" else []
    for dry in ([], ["--dry-run"]):
        status, text = run(*given, *dry)
        assert status == 2
        assert "give --allow-rank-deficient" in text
        assert "allow_rank_deficient" not in text
    assert run(*given, "--allow-rank-deficient", "--dry-run")[0] == 0
    status, text = run(*given, "--allow-rank-deficient")
    assert status == 0, text
    t = np.asarray(nib.load(tmp_path / "out" / "contrast-x_stat-t_statmap.nii.gz").dataobj).ravel()
    assert np.allclose(t, expected_t(table, data), rtol=1e-5)
    status, text = run(*given[:-1], *given[-1:], "--allow-rank-deficient", "--overwrite", "--contrast", "age")
    assert (status, "not estimable" in text) == (2, True)


def test_dependent_columns_in_python(dependent):
    folder, table, data = dependent
    images = sorted(map(str, folder.glob("*.nii")))
    design = table.set_index("participant_id")[["x", "age", "twice"]].assign(one=1.0)
    expected = expected_t(table, data)
    model = daskglm.SecondLevelModel(mask_img=False)
    with pytest.raises(DesignError, match="give allow_rank_deficient=True"):
        model.fit(images, design_matrix=design)
    model = model.set_params(allow_rank_deficient=True).fit(images, design_matrix=design)
    assert np.allclose(np.asarray(model.compute_contrast("x", output_type="stat").dataobj).ravel(), expected)
    permuted = model.compute_contrast_permutations("x", n_perm=10, output_type="t", random_state=0)
    assert np.allclose(np.asarray(permuted.dataobj).ravel(), expected, rtol=1e-5)
    given = {"design_matrix": design, "second_level_contrast": "x", "mask": False, "n_perm": 10, "threshold": 0.05}
    with pytest.raises(DesignError, match="give allow_rank_deficient=True"):
        daskglm.non_parametric_inference(images, **given)
    maps = daskglm.non_parametric_inference(images, **given, allow_rank_deficient=True)
    assert np.allclose(np.asarray(maps["t"].dataobj).ravel(), expected, rtol=1e-5)


def test_a_mask_on_another_grid(dependent, tmp_path):
    folder, table, _ = dependent
    nib.save(nib.Nifti1Image(np.ones((3, 3, 2), np.uint8), 2 * np.eye(4)), tmp_path / "mask.nii")
    for command in ("group", "permute"):
        status, text = run(command, folder / "sub-*.nii", "--contrast", "intercept", "--mask", tmp_path / "mask.nii",
                           "--output", tmp_path / "out", "--quiet", "--no-report")  # fmt: skip
        assert (status, "resample it" in text, "target_affine" in text) == (2, True, False)
    images = sorted(map(str, folder.glob("*.nii")))
    design = pd.DataFrame({"one": np.ones(len(table))})
    with pytest.raises(SpaceError, match="give target_affine and target_shape to SecondLevelModel"):
        daskglm.non_parametric_inference(images, design_matrix=design, mask=str(tmp_path / "mask.nii"))


def test_coverage(dependent, tmp_path):
    """Voxels that few images have: the remedy is an option of each command, and a parameter of each function."""
    for k, values in enumerate(dependent[2]):
        sparse = np.where(np.arange(18) % 6 == k % 6, values, np.nan).reshape(3, 3, 2)
        nib.save(nib.Nifti1Image(sparse, np.eye(4)), tmp_path / f"sub-{k:02d}.nii")
    images = [str(tmp_path / f"sub-{k:02d}.nii") for k in range(12)]
    for command in ("group", "permute"):
        given = [command, *images, "--contrast", "intercept", "--output", tmp_path / command, "--quiet", "--no-report"]
        status, text = run(*given)
        assert (status, "lower --min-coverage" in text, "min_coverage" in text) == (2, True, False)
        assert run(*given, "--min-coverage", 0.1, *(["--n-perm", 3] if command == "permute" else []))[0] == 0
    given = {"design_matrix": pd.DataFrame({"one": np.ones(12)}), "n_perm": 3}
    with pytest.raises(ImageError, match="lower min_coverage"):
        daskglm.non_parametric_inference(images, **given)
    daskglm.non_parametric_inference(images, **given, min_coverage=0.1)


@pytest.mark.parametrize(
    ("more", "option", "parameter"),
    [
        (["--formula", "~ age", "--contrast", "age"], "give --participants", "participants"),
        (["--formula", "~ age"], "give --contrast or --f-contrast", "contrasts or f_contrasts"),
        (["--contrast", "intercept", "--within", "site"], "give --participants", "give participants"),
    ],
)
def test_what_is_missing(dependent, tmp_path, more, option, parameter):
    folder, _, _ = dependent
    given = dict(zip(more[::2], more[1::2], strict=True))
    status, text = run("permute", folder / "sub-*.nii", *more, "--output", tmp_path / "out", "--quiet", "--no-report")
    assert (status, option in text) == (2, True), text
    with pytest.raises(ValueError, match=parameter) as caught:
        daskglm.permutation_analysis(
            str(folder / "sub-*.nii"), tmp_path / "out", given.get("--formula", "~ 1"),
            {"a": given["--contrast"]} if "--contrast" in given else {}, within=given.get("--within"),
        )  # fmt: skip
    assert "--" not in str(caught.value)


def test_results_that_are_there(dependent, tmp_path):
    folder, _, _ = dependent
    given = ["group", folder / "sub-*.nii", "--contrast", "intercept", "--output", tmp_path, "--quiet", "--no-report"]
    assert run(*given)[0] == 0
    status, text = run(*given)
    assert (status, "give --overwrite" in text) == (2, True)
    with pytest.raises(OSError, match="give overwrite=True"):
        daskglm.group_analysis(str(folder / "sub-*.nii"), tmp_path, "~ 1", {"a": "intercept"})
