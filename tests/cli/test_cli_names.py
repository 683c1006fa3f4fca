"""Names that are nearly right: the message has the one that is meant."""

import pytest
from test_cli import run
from test_cli_first_level import cohort as dataset  # noqa: F401 (a fixture)

from daskglm.errors import nearest

AGE = ["--formula", "~ age", "--contrast", "age"]
GROUP = {
    "command": (["grup"], "no command 'grup'; did you mean 'group'?"),
    "option": (["group", "x.nii", "--formla", "~ 1"], "--formula"),
    "column": (
        ["group", "--formula", "~ agee", "--contrast", "age"],
        "no column 'agee' for formula '~ agee'; did you mean 'age'?",
    ),
    "contrast": (
        ["group", "--formula", "~ age", "--contrast", "agee"],
        "no regressor 'agee' for contrast 'agee'; did you mean 'age'?",
    ),
    "transform": (["group", "--formula", "~ scal(age)", "--contrast", "age"], "did you mean 'scale'?"),
    "scheme": (["permute", *AGE, "--scheme", "freedman-lan"], "did you mean 'freedman-lane'?"),
    "blocks": (["permute", *AGE, "--within", "Sex"], "no column 'Sex'; did you mean 'sex'?"),
}


@pytest.mark.parametrize("case", GROUP)
def test_names_of_a_group_analysis(cohort, tmp_path, case):
    words, message = GROUP[case]
    images = [*cohort.paths, "--participants", cohort.table_path, "--output", tmp_path / "out"]
    status, text = run(*words, *(images if "formula" in " ".join(words) else []))
    assert status == 2
    assert message in text


FIRST = {
    "task": (["--task", "y"], "tasks: x"),
    "space": (["--space", "T1W"], "did you mean 'T1w'?"),
    "entity": (["--filter", "tsk=x"], "one is of 'tsk'; did you mean 'task'?"),
    "subject": (["--participant-label", "001"], "the nearest that exist: 01"),
    "confounds": (["--confounds", "motoin"], "did you mean 'motion'?"),
    "confound value": (["--confounds", "motion=derivative"], "did you mean 'derivatives'?"),
    "noise": (["--noise", "olss"], "it is 'olss'; did you mean 'ols'?"),
    "hrf": (["--hrf", "glovr"], "no hrf_model 'glovr'; did you mean 'glover'?"),
}


@pytest.mark.parametrize("case", FIRST)
def test_names_of_a_first_level_analysis(dataset, tmp_path, case):  # noqa: F811
    words, message = FIRST[case]
    given = ["--contrast", "a", "--filter", "res=2", *words]
    status, text = run("first-level", dataset, tmp_path / "out", *given, "--quiet", "--no-report")
    assert status == 2, text
    assert message in text
    assert len(text.strip().splitlines()) == 1


def test_height_control():
    from daskglm.errors import ParameterError
    from daskglm.inference.thresholding import check_parameters

    with pytest.raises(ParameterError, match=r"got 'bonferoni'; did you mean 'bonferroni'\?"):
        check_parameters(0.05, None, "bonferoni", 0, True)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("agee", ["sex", "age"], "; did you mean 'age'?"),
        ("AGE", ["age"], "; did you mean 'age'?"),
        ("wall-time", ["wall_time"], "; did you mean 'wall_time'?"),
        ("iq", ["age"], ""),
        ("x", [], ""),
        (None, ["none"], "; did you mean 'none'?"),
    ],
)
def test_nearest(name, known, expected):
    assert nearest(name, known) == expected
