"""What the README tells to type runs: each command and each piece of Python, in its order."""

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import daskglm
from daskglm.cli.main import main

README = Path(__file__).parents[1] / "README.md"
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (6, 7, 5)


STATS_MODEL = {
    "Name": "faces", "BIDSModelVersion": "1.0.0", "Input": {"task": ["faces"]},
    "Nodes": [
        {
            "Level": "Run", "Name": "runs", "GroupBy": ["run", "subject"],
            "Transformations": {"Transformer": "pybids-transforms-v1", "Instructions": [
                {"Name": "Factor", "Input": ["trial_type"]},
                {"Name": "Convolve", "Input": ["trial_type.face", "trial_type.house"], "Model": "glover"},
            ]},
            "Model": {"Type": "glm", "X": ["trial_type.*", 1]},
            "Contrasts": [{
                "Name": "faces", "ConditionList": ["trial_type.face", "trial_type.house"], "Weights": [1, -1],
                "Test": "t",
            }],
        },
        {"Level": "Subject", "Name": "subjects", "GroupBy": ["subject", "contrast"],
         "Model": {"X": [1], "Type": "Meta"}, "DummyContrasts": {"Test": "t"}},
        {"Level": "Dataset", "Name": "all", "GroupBy": ["contrast"],
         "Model": {"X": [1], "Type": "glm"}, "DummyContrasts": {"Test": "t"}},
    ],
}  # fmt: skip


def commands():
    """Command lines that name all they need: in code, and in the first table."""
    text = README.read_text(encoding="utf-8").split("## Measured")[0]
    blocks = re.findall(r"^    (daskglm .*)$", text, re.MULTILINE)  # each an example of its own
    table = text.split("## What you have")[1].split("##")[0]
    found = [*re.findall(r"`(daskglm(?:-bids)? [^`]+)`", table), *blocks]
    lines = [re.sub(r"\s+# .*", "", line) for line in found]
    return list(dict.fromkeys(line for line in lines if "..." not in line and len(line.split()) > 2))


def code():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def write_maps(folder):
    rng = np.random.default_rng(0)
    n = 24
    names = [f"sub-{k:02d}" for k in range(1, n + 1)]
    table = pd.DataFrame({
        "participant_id": names, "age": rng.uniform(20, 70, n).round(1), "sex": ["F", "M", "M"] * (n // 3),
        "site": ["A", "B"] * (n // 2), "reappraisal_success": rng.standard_normal(n).round(3),
    })  # fmt: skip
    (folder / "maps").mkdir()
    for name, age in zip(names, table["age"], strict=True):
        values = 5 + rng.standard_normal(SHAPE) + 0.05 * age
        nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), folder / f"maps/{name}.nii.gz")
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)


def write_bids(root):
    rng = np.random.default_rng(1)
    onsets = np.arange(4, 150, 12.0)
    for sub in range(1, 7):
        name = f"sub-{sub:02d}_task-faces"
        raw, derived = root / f"sub-{sub:02d}/func", root / f"derivatives/fmriprep/sub-{sub:02d}/func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        events = pd.DataFrame({"onset": onsets, "duration": 3.0, "trial_type": (["face", "house"] * 9)[: len(onsets)]})
        events.to_csv(raw / f"{name}_events.tsv", sep="\t", index=False)
        stem = derived / f"{name}_space-MNI152NLin2009cAsym_desc-"
        data = 500 + 5 * rng.standard_normal((*SHAPE, 80))
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), f"{stem}preproc_bold.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), f"{stem}brain_mask.nii.gz")
        Path(f"{stem}preproc_bold.json").write_text(json.dumps({"RepetitionTime": 2.0, "StartTime": 0.0}))
        axes = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
        motion = {f"{axis}{end}": rng.standard_normal(80) for axis in axes
                  for end in ("", "_derivative1", "_power2", "_derivative1_power2")}  # fmt: skip
        stem = derived / f"{name}_desc-confounds_timeseries"
        pd.DataFrame(motion).to_csv(f"{stem}.tsv", sep="\t", index=False)
        Path(f"{stem}.json").write_text("{}")
    (root / "dataset_description.json").write_text('{"Name": "faces", "BIDSVersion": "1.9.0"}')


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README's user has."""
    folder = tmp_path_factory.mktemp("readme")
    write_maps(folder)
    write_bids(folder / "BIDS")
    (folder / "cluster_configs").mkdir()
    local = (README.parent / "cluster_configs/local.yaml").read_text(encoding="utf-8").replace("# scale: 4", "scale: 2")
    (folder / "model.yaml").write_text(
        'kind: group\nimages: cohort.zarr\nformula: "~ age"\ncontrast: age\noutput: from_file\n'
    )
    (folder / "model_smdl.json").write_text(json.dumps(STATS_MODEL))
    for name in ("mine.yaml", "cluster_configs/slurm.yaml"):
        (folder / name).write_text(local)
    return folder


def type_command(line):
    program, *arguments = shlex.split(line)
    done = CliRunner().invoke(main, ["bids", *arguments] if program == "daskglm-bids" else arguments)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_commands_run(place, bucket, monkeypatch):
    monkeypatch.chdir(place)
    for path in sorted(Path("maps").iterdir()):
        bucket.upload(path, f"maps/{path.name}")
    found = commands()
    assert len(found) >= 10
    # A store is there before what uses it, wherever the README says how it is made.
    found.sort(key=lambda line: " convert " not in line)
    for line in found:
        output = re.search(r"--output (\S+)", line) or re.search(r"first-level \S+ (\S+)", line)
        if output is not None and output[1] in ("out/", "group/"):
            shutil.rmtree(output[1], ignore_errors=True)  # two analyses do not share a folder
        line = line.replace("s3://bucket", bucket.url)
        type_command(line)
        if output is not None and "://" not in output[1]:
            assert Path(output[1]).exists(), line


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_python_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    paths = sorted(str(path) for path in Path("maps").iterdir())
    if not Path("cohort.zarr").exists():
        daskglm.convert(paths, "cohort.zarr", participants="participants.tsv")
    if not Path("out/provenance.json").exists():
        type_command("daskglm group cohort.zarr --formula '~ age' --contrast age --output out/ --overwrite --no-report")
    table = pd.read_csv("participants.tsv", sep="\t")
    design = table.set_index("participant_id")[["age", "reappraisal_success"]].assign(intercept=1.0)
    runs = sorted(str(path) for path in Path("BIDS").rglob("*_bold.nii.gz"))
    events = [pd.read_csv(path, sep="\t") for path in sorted(Path("BIDS").rglob("*_events.tsv"))]
    confounds = [
        pd.read_csv(path, sep="\t")[["trans_x", "trans_y"]] for path in sorted(Path("BIDS").rglob("*_timeseries.tsv"))
    ]
    mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
    names = {
        "paths": paths, "design": design, "runs": runs[0], "events": events[0], "confounds": confounds[0], "mask": mask,
        "run": runs[0], "t_r": 2.0, "daskglm": daskglm, "participants": table,
    }  # fmt: skip
    for piece in code():
        piece = piece.replace("t_r=2.5", "t_r=2.0").replace("/shared/cohort.zarr", "cohort.zarr")
        if "compute_contrast_permutations" in piece:
            names["model"] = daskglm.SecondLevelModel(mask_img=mask).fit(paths, design_matrix=design)
            names["z_map"] = names["model"].compute_contrast("age", output_type="z_score")
        exec(compile(piece, "README.md", "exec"), names)  # noqa: S102 (our own README)
    assert isinstance(names["z"], nib.Nifti1Image)
