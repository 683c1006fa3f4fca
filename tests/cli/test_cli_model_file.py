"""An analysis in a file: its own form, and BIDS Stats Models; each against the same by plain options."""

import copy
import json
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from test_cli import run
from test_cli_first_level import cohort as bids  # noqa: F401 (a fixture)

QUIET = ["--quiet", "--no-report"]


def maps(folder):
    """Values of every map below a folder, by name."""
    return {os.path.relpath(os.path.join(base, name), folder): np.asanyarray(nib.load(os.path.join(base, name)).dataobj)
            for base, _, names in os.walk(folder) for name in names if name.endswith("_statmap.nii.gz")}  # fmt: skip


def same(one, other):
    one, other = maps(one), maps(other)
    assert one
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_group_analysis_in_a_file(cohort, tmp_path, form, monkeypatch):
    model = {
        "kind": "group",
        "images": "maps/*.nii.gz",
        "participants": os.path.relpath(cohort.table_path, tmp_path),
        "formula": "~ age + sex",
        "contrast": {"age": "age", "both": "age + sex"},
        "f-contrast": ["age, sex"],
        "min-coverage": 0.75,
        "no-report": True,
        "output": "by_file",
    }
    path = tmp_path / f"model.{form}"
    path.write_text(yaml.safe_dump(model) if form == "yaml" else json.dumps(model))
    status, text = run("run", path, "--quiet")
    assert status == 0, text
    given = ["--participants", cohort.table_path, "--formula", "~ age + sex", "--contrast", "age=age", *QUIET]
    given += ["--contrast", "both=age + sex", "--f-contrast", "age, sex", "--min-coverage", "0.75"]
    assert run("group", *cohort.paths, *given, "--output", tmp_path / "by_options")[0] == 0
    same(tmp_path / "by_file", tmp_path / "by_options")
    # What resume would run is the command itself, so that the file may change.
    record = json.loads((tmp_path / "by_file" / ".daskglm" / "run.json").read_text())
    assert (record["command"][0], record["folder"]) == ("group", os.getcwd())
    assert "--contrast=both=age + sex" in record["command"]
    # From another folder, and relative to it.
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    status, text = run("run", os.path.join("..", f"model.{form}"), "--quiet")
    assert (status, "already holds results" in text) == (2, True)
    assert run("run", os.path.join("..", f"model.{form}"), "--overwrite", "--quiet")[0] == 0
    assert not os.listdir(tmp_path / "else")


def test_labels_stay_text(bids, tmp_path):  # noqa: F811
    """In YAML 1.1 the number 010 is eight, and 01 is one."""
    path = tmp_path / "model.yaml"
    path.write_text(
        f"kind: first-level\ndataset: {bids}\noutput: out\ntask: x\nfilter: {{res: 2, run: 1}}\n"
        "participant-label: [01, 02]\ncontrast: [a - b]\nno-report: true\nquiet: true\n"
    )
    status, text = run("run", path)
    assert status == 0, text
    assert sorted(item.name for item in (tmp_path / "out").glob("sub-*")) == ["sub-01", "sub-02"]


def test_convert_by_a_file(cohort, tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("kind: convert\nimages: maps/*.nii.gz\noutput: all.zarr\n")
    status, text = run("run", path, "--dry-run")
    assert (status, "12 images" in text, (tmp_path / "all.zarr").exists()) == (0, True, False)
    assert run("run", path, "--quiet")[0] == 0
    assert json.loads(run("info", tmp_path / "all.zarr", "--json")[1])["samples"] == cohort.names


WRONG = {
    "unknown key": (
        "kind: group\nimages: x\noutput: out\nformla: ~ age\n",
        "group has no option 'formla'; did you mean 'formula'?",
    ),
    "unknown kind": ("kind: grup\n", "but it is 'grup'; did you mean 'group'?"),
    "no kind": ("images: x\n", "kind is one of"),
    "twice": ("kind: group\nimages: x\ncontrast: a\ncontrast: b\n", "the key 'contrast' is there twice"),
    "a tag": ("kind: group\nimages: !!python/object/apply:os.system [true]\n", "group needs output"),
    "no images": ("kind: group\noutput: out\n", "group needs images"),
    "flag": ("kind: group\nimages: x\noutput: out\noverwrite: perhaps\n", "overwrite is true or false"),
    "list": ("kind: group\nimages: x\noutput: [a, b]\n", "output has one value"),
    "nested": ("kind: group\nimages: x\noutput: out\nformula: [[a]]\n", "formula is text, a number or a list"),
    "empty": ("kind: group\nimages: x\noutput: out\nmask:\n", "mask is text, a number or a list"),
    "no mapping": ("- kind\n", "a model has keys and values"),
    "broken": ("kind: [group\n", "cannot read the model"),
    "dry-run": ("kind: group\nimages: x\noutput: out\ndry-run: true\n", "no option 'dry-run'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(tmp_path, case):
    content, message = WRONG[case]
    path = tmp_path / "model.yaml"
    path.write_text(content)
    status, text = run("run", path)
    assert (status, message in text) == (2, True), text
    assert len(text.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == ["model.yaml"]


# As the two-level models of fitlins for ds003, with the names of this dataset.
TWO_LEVEL = {
    "Name": "two level",
    "BIDSModelVersion": "1.0.0",
    "Description": "a > b, and each of them",
    "Input": {"task": ["x"], "resolution": "2"},
    "Nodes": [
        {
            "Level": "Run",
            "Name": "run_level",
            "GroupBy": ["run", "subject"],
            "Transformations": {
                "Transformer": "pybids-transforms-v1",
                "Instructions": [
                    {"Name": "Factor", "Input": ["trial_type"]},
                    {"Name": "Convolve", "Input": ["trial_type.a", "trial_type.b"], "Model": "spm"},
                ],
            },
            "Model": {"Type": "glm", "X": ["trial_type.*", 1], "Options": {"HighPassFilterCutoffHz": 0.02}},
            "Contrasts": [
                {"Name": "a_gt_b", "ConditionList": ["trial_type.a", "trial_type.b"], "Weights": [1, -1], "Test": "t"},
                {
                    "Name": "mean", "ConditionList": ["trial_type.a", "trial_type.b"], "Weights": ["1/2", "1/2"],
                    "Test": "t",
                },
            ],
        },
        {
            "Level": "Subject",
            "Name": "subject_level",
            "GroupBy": ["subject", "contrast"],
            "Model": {"X": [1], "Type": "Meta"},
            "DummyContrasts": {"Test": "t"},
        },
        {
            "Level": "Dataset",
            "Name": "one_sample",
            "GroupBy": ["contrast"],
            "Model": {"X": [1], "Type": "glm"},
            "DummyContrasts": {"Test": "t"},
        },
        {
            "Level": "Dataset",
            "Name": "with age",
            "GroupBy": ["contrast"],
            "Model": {"X": [1, "age"], "Type": "glm"},
            "DummyContrasts": {"Test": "t", "Contrasts": ["age"]},
        },
    ],
    "Edges": [
        {"Source": "run_level", "Destination": "subject_level"},
        {"Source": "subject_level", "Destination": "one_sample"},
        {"Source": "subject_level", "Destination": "with age", "Filter": {"contrast": ["mean"]}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(bids):  # noqa: F811
    """The dataset of the first level with participants."""
    people = {
        "participant_id": [f"sub-0{k}" for k in range(1, 5)],
        "age": [30, 41, 25, 38],
        "sex": ["F", "M", "F", "M"],
    }
    pd.DataFrame(people).to_csv(bids / "participants.tsv", sep="\t", index=False)
    return bids


def test_a_two_level_stats_model_is_the_analysis_of_plain_options(dataset, tmp_path):
    path = tmp_path / "model_smdl.json"
    path.write_text(json.dumps(TWO_LEVEL))
    by_model, plain = tmp_path / "by_model", tmp_path / "plain"
    status, text = run("run", path, dataset, by_model, *QUIET)
    assert status == 0, text
    given = ["--task", "x", "--filter", "res=2", "--hrf", "spm", "--drift", "cosine", "--high-pass", "0.02", *QUIET]
    given += ["--contrast", "a_gt_b=a - b", "--contrast", "mean=(a + b) / 2"]
    assert run("first-level", dataset, plain, *given)[0] == 0
    for name, contrast in (("a_gt_b", "aGtB"), ("mean", "mean")):
        store = next((plain / "group").glob(f"*contrast-{contrast}.zarr"))
        output = plain / "node-oneSample" / f"contrast-{contrast}"
        assert run("group", store, "--contrast", f"{name}=intercept", "--output", output, *QUIET)[0] == 0
    age = ["--formula", "~ age", "--contrast", "age", "--output", plain / "node-withAge" / "contrast-mean"]
    assert run("group", store, *age, *QUIET)[0] == 0
    same(by_model, plain)


def test_dry_run_and_json_of_a_stats_model(dataset, tmp_path):
    path = tmp_path / "model_smdl.json"
    model = copy.deepcopy(TWO_LEVEL)
    del model["Nodes"][3], model["Edges"]
    path.write_text(json.dumps(model))
    status, text = run("run", path, dataset, tmp_path / "out", "--dry-run")
    assert (status, "2 group analyses follow" in text, (tmp_path / "out").exists()) == (0, True, False)
    from click.testing import CliRunner

    from daskglm.cli.main import main

    done = CliRunner().invoke(main, [str(text) for text in ("run", path, dataset, tmp_path / "out", "--json", *QUIET)])
    steps = json.loads(done.stdout)["steps"]
    assert [step["command"] for step in steps] == ["first-level", "group", "group"]
    assert [step["n"] for step in steps] == [4, 4, 4]


def changed(path, value):
    """The model with something else at a path; None takes it out."""
    model = copy.deepcopy(TWO_LEVEL)
    place = model
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return model


RUN, SUBJECT, PEOPLE = ("Nodes", 0), ("Nodes", 1), ("Nodes", 3)
STEPS = (*RUN, "Transformations", "Instructions")
REFUSED = {
    "key": (("Noodes",), [], "the model has 'Noodes', which has no counterpart in daskglm; did you mean 'Nodes'?"),
    "entity": (("Input", "tusk"), ["x"], "Input has 'tusk'"),
    "tasks": (("Input", "task"), ["x", "y"], "Input has task 'y', but no run is of it"),
    "level": ((*RUN, "Level"), "Visit", "node 'run_level' is of level 'Visit'"),
    "no runs": ((*RUN, "Level"), "Session", "of level session is grouped by contrast, session, subject"),
    "group by": ((*SUBJECT, "GroupBy"), ["subject", "session", "contrast"], "here by contrast, session, subject"),
    "scale": ((*STEPS, 0), {"Name": "Scale", "Input": ["rt"]}, "takes 'rt', but the variables are trial_type"),
    "lag": ((*STEPS, 0), {"Name": "Lag", "Input": ["rt"]}, "node 'run_level': the transformation 'Lag' has no"),
    "no convolution": ((*STEPS, 1), None, "convolves with one response, but there is none"),
    "hrf": ((*STEPS, 1, "Model"), "smp", "but it is 'smp'; did you mean 'spm'?"),
    "part convolved": ((*STEPS, 1, "Input"), ["trial_type.a"], "has trial_type.b, which is not convolved"),
    "condition": ((*RUN, "Model", "X"), ["trial_type.aa", 1], "no event is of trial_type 'aa'; did you mean 'a'?"),
    "not all": ((*RUN, "Model", "X"), ["trial_type.a", 1], "weighs 'trial_type.b', but X has no such condition"),
    "confound": ((*RUN, "Model", "X"), ["trial_type.*", "framewise_displacement"], "must be columns of the tables"),
    "cosines twice": ((*RUN, "Model", "X"), ["trial_type.*", "cosine*"], "keep one of them"),
    "contrast": ((*RUN, "Contrasts", 0, "ConditionList", 1), "trial_type.c", "weighs 'trial_type.c'"),
    "test": ((*RUN, "Contrasts", 0, "Test"), "skip", "contrast 'a_gt_b' of node 'run_level' is a t or an F test"),
    "weights": ((*RUN, "Contrasts", 0, "Weights"), [1], "has a weight for each of"),
    "subject type": ((*SUBJECT, "Model", "Type"), "glm", "fixed effects"),
    "subject x": ((*SUBJECT, "Model", "X"), [1, "age"], "combines runs by X: [1]"),
    "column": ((*PEOPLE, "Model", "X"), [1, "agee"], "no such column of numbers; did you mean 'age'?"),
    "text column": ((*PEOPLE, "Model", "X"), [1, "sex"], "X of node 'with age' has 'sex'"),
    "edge": (("Edges", 0, "Destination"), "subject_levl", "no node is called so; did you mean 'subject_level'?"),
    "filter": (("Edges", 2, "Filter"), {"contrast": ["maen"]}, "there is a_gt_b, mean; did you mean 'mean'?"),
    "filter kind": (("Edges", 2, "Filter"), {"subject": ["01"]}, "the edge to 'with age' has 'subject'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_map_is_refused_by_name_before_work(dataset, tmp_path, case):
    path, value, message = REFUSED[case]
    (tmp_path / "m.json").write_text(json.dumps(changed(path, value)))
    status, text = run("run", tmp_path / "m.json", dataset, tmp_path / "out")
    assert (status, message in text) == (2, True), text
    assert len(text.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_walkthrough_of_the_standard(dataset, tmp_path):
    """There the nodes after the first name the contrast that comes in; runs come without a filter of the edge."""
    passed = [{"Name": "a_gt_b", "ConditionList": ["a_gt_b"], "Weights": [1], "Test": "t"}]
    model = changed(("Edges",), None)
    del model["Nodes"][3]
    for node in model["Nodes"][1:]:
        node.pop("DummyContrasts")
        node["Contrasts"] = passed
    from daskglm.models.stats_model import GroupNode, read_stats_model

    found = read_stats_model(model, str(dataset))
    assert found.groups == (GroupNode("one_sample", ("a_gt_b",), "~ 1", {"intercept": "intercept"}, {}),)
    assert found.first_level["filter"] == ["res=2"]


def paths_of(part, path=()):
    """Every place in a document."""
    yield path
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        yield from paths_of(value, (*path, key))


@pytest.mark.parametrize("value", ["text", "", 3, True, ["x"], [], {"x": 1}, {}])
def test_no_shape_of_a_stats_model_is_unexpected(dataset, value, monkeypatch):
    """It is read, or refused on purpose."""
    from daskglm.errors import DaskGLMError
    from daskglm.io.bids import find_runs
    from daskglm.models import stats_model
    from daskglm.models.stats_model import read_stats_model

    one = find_runs(dataset, "x", filters={"res": "2"})[:1]
    monkeypatch.setattr(stats_model, "find_runs", lambda *_, **__: one)
    refused = 0
    for path in [path for path in paths_of(TWO_LEVEL) if path]:
        try:
            read_stats_model(changed(path, value), str(dataset))
        except DaskGLMError:
            refused += 1
    assert refused > 20
