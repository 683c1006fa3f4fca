"""Progress: what is told, where; tasks under names that a person understands; Ctrl-C ends what runs."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
import time

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask.callbacks import Callback
from dask.utils import key_split

import daskglm
from daskglm.graph import progress
from daskglm.graph.cohort import run_cohort
from daskglm.graph.compute import cluster_description, compute, shared, task
from daskglm.graph.glm import solve_moments, sum_moments
from daskglm.graph.images import Preparation, lazy_array
from daskglm.graph.progress import Work, duration, shown
from daskglm.graph.runs import NoiseModel, RunImages, mean_of_run, solve_run, sum_blocks, sum_run
from daskglm.graph.trials import trial_maps
from daskglm.kernels.basis import orthonormal_basis
from daskglm.kernels.scaling import Scaling
from daskglm.kernels.trials import TrialModel
from daskglm.models.inputs import load_images
from daskglm.models.options import Options
from daskglm.schema.space import VolumeSpace

# All that a person may meet on the dashboard, and the shapes of arrays that Dask itself changes.
NAMES = {
    "read-images", "block-moments", "sum-moments", "sum-moments-partial", "sum-moments-aggregate", "solve", "fit-map",
    "contrasts", "block-observed", "count-observed", "count-observed-partial", "count-observed-aggregate",
    "write-chunk", "preparation", "fit-run", "combine-runs", "how-to-fit", "how-to-combine",
    "run", "lags", "sum-run", "sum-run-part", "cut-moments", "mean-of-run", "scale-run", "solve-run", "autoregression",
    "cluster-noise", "trial-models", "trial-betas", "below-one",
    "observe-block", "prepare-block", "permute-block", "enhance-maps", "join-unit", "draw-rearrangements",
    "tests", "tiles", "levels", "rearrangements", "on-map", "enhanced",
    "add-moments", "keep-moments", "load-moments",
    "images", "original-images", "open_dataset-data",
    "array", "array-original", "getitem", "concatenate", "rechunk-merge", "rechunk-split",
    "finalize", "finalize-hlgfinalizecompute", "original-array", "from-value",
}  # fmt: skip


def lines_of(monkeypatch):
    """Standard error of no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(monkeypatch):
    text, now = lines_of(monkeypatch), clock(monkeypatch)
    with shown("Reading images", 512) as tell:
        for second in range(1, 13):
            now[0] = float(second)
            tell(42 * second)
        now[0] = 12.2
        tell(512)
    assert text.getvalue().splitlines() == [
        "Reading images: 0 of 512",
        "Reading images: 420 of 512 (82%), 42/s, 2 s left",
        "Reading images: 512 of 512 in 12 s, 42/s",
    ]


def test_a_long_run_writes_a_hundred_lines(monkeypatch):
    text, now = lines_of(monkeypatch), clock(monkeypatch)
    with shown("Converting", 100_000) as tell:
        for done in range(100_001):
            now[0] = done * 0.36  # ten hours
            tell(done)
    lines = text.getvalue().splitlines()
    assert 90 <= len(lines) <= 102
    assert "50,000 of 100,000 (50%), 2.8/s, 5 h 0 min left" in text.getvalue()


def test_what_was_done_before_does_not_count_for_the_rate(monkeypatch):
    text, now = lines_of(monkeypatch), clock(monkeypatch)
    with shown("Rearrangements", 10_000, start=9_000) as tell:
        now[0] = 20.0
        tell(9_100)
    assert "9,100 of 10,000 (91%), 5/s, 3 min 0 s left" in text.getvalue()


def interrupted():
    with shown("Reading", 8) as tell:
        tell(3)
        raise KeyboardInterrupt


def test_an_error_is_told_and_not_swallowed(monkeypatch, caplog):
    text = lines_of(monkeypatch)
    with caplog.at_level(logging.INFO, "daskglm"), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert text.getvalue().splitlines()[-1].startswith("Reading: stopped at 3 of 8 after ")
    assert "Reading: stopped at 3 of 8" in caplog.text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_bar_in_a_terminal(monkeypatch, caplog, term):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "120")
    now = clock(monkeypatch)
    with caplog.at_level(logging.INFO, "daskglm"), shown("Reading images", 512) as tell:
        now[0] = 4.0
        tell(128)
        time.sleep(0.15)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert ("━" in drawn) == (term == "xterm")
    assert "Reading images: 128 of 512 in 4 s, 32/s" in caplog.text
    if term == "xterm":
        assert "128 of 512 32/s, 12 s left" in drawn
        assert "Reading images: " not in drawn
    else:
        assert drawn.splitlines()[0] == "Reading images: 0 of 512"


def test_a_widget_in_a_notebook(monkeypatch):
    """Without a kernel: what rich is asked for."""
    from rich.console import Console

    monkeypatch.setattr(Console, "is_jupyter", True, raising=False)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "find_spec", lambda name: object())
    assert progress._canvas().is_jupyter
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    assert progress._canvas() is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def slow(k):
    time.sleep(0.01)
    return k


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_tasks_are_counted_in_the_units_of_the_work(monkeypatch, n_jobs):
    """Six tasks stand for 90 images; the sums of them count for nothing."""
    told = watched(monkeypatch)
    parts = [task("read", slow, k) for k in range(6)]
    (found,) = compute(task("add-up", sum, parts), n_jobs=n_jobs, progress=Work("Reading", 90, "read"))
    assert found == 15
    assert told == [("Reading", 90, ""), 15, 30, 45, 60, 75, 90]
    told.clear()
    compute(task("add-up", sum, parts), n_jobs=n_jobs, progress="Reading")
    assert told[0] == ("Reading", 7, "tasks")
    assert told[-1] == 7


def watched(monkeypatch):
    """What is shown, as a list."""
    told = []

    @progress.contextmanager
    def listen(name, total, start=0, unit=""):
        told.append((name, total, unit))
        yield told.append

    monkeypatch.setattr(progress, "shown", listen)
    return told


def test_a_cluster_is_followed_and_described(monkeypatch):
    told = watched(monkeypatch)
    with daskglm.connect("local") as client:
        parts = [task("read", slow, k) for k in range(6)]
        (found,) = compute(task("add-up", sum, parts), progress=Work("Reading", 90, "read"))
        assert found == 15
        assert told[0] == ("Reading", 90, "")
        assert told[-1] == 90
        assert told[1:] == sorted(told[1:])
        with pytest.raises(ZeroDivisionError):
            compute(task("divide", lambda: 1 / 0), progress="Dividing")
        described = cluster_description()
        assert described["kind"] == "LocalCluster"
        assert described["workers"] == len(client.nthreads())
        assert described["threads"] == sum(client.nthreads().values())
        assert described["memory"] > 0
        deadline = time.monotonic() + 5
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < deadline, "the scheduler keeps tasks that nobody waits for"
            time.sleep(0.05)
    assert cluster_description(2) == {**cluster_description(2), "kind": "threads", "workers": 1, "threads": 2}


def understandable(names):
    """Whether names are of the list; Dask joins those of tasks that it makes one."""
    joined = "|".join(sorted(NAMES, key=len, reverse=True))
    strange = [name for name in names if not re.fullmatch(rf"(?:{joined})(?:-(?:{joined}))*", name)]
    assert not strange
    return True


def names_of(*lazy, optimized=True):
    """Names of the tasks of lazy objects."""
    lazy = dask.optimize(*lazy) if optimized else lazy
    return {key_split(key) for item in lazy for key in dict(item.__dask_graph__())}


def test_tasks_of_the_second_level_have_names(cohort, tmp_path):
    from daskglm.graph.glm import coverage

    store = str(tmp_path / "cohort.zarr")
    daskglm.convert(cohort.paths, store, mask=cohort.mask_img)
    for source in (cohort.paths, store):
        images = load_images(source, Options(mask_img=cohort.mask_img)).images
        data = lazy_array(images["data"]).rechunk((5, 31))
        fit = daskglm.fit_glm(images.chunk(sample=3), cohort.design)
        maps = daskglm.compute_contrasts(fit, {"age": "age", "both": "age, male"})
        assert understandable(names_of(fit) | names_of(maps))
        design = cohort.design.to_numpy()
        solution = solve_moments(sum_moments(data, orthonormal_basis(design), design), 3, data.dtype)
        for optimized in (True, False):
            found = names_of(solution, coverage(data), optimized=optimized)
            assert "sum-moments" in found
            assert understandable(found)


def test_tasks_of_the_first_level_have_names():
    mask = np.ones((2, 3, 4), bool)
    space = VolumeSpace.from_image(_image(np.zeros((2, 3, 4))), mask)
    run = RunImages("run.nii", Preparation(space), np.arange(260))
    regressors = np.linalg.qr(np.stack([np.ones(260), np.linspace(-1, 1, 260)], axis=1))[0]
    chunks, found = (14, 10), set()
    for noise in (NoiseModel(1, 100), NoiseModel(2, 5, 0)):
        moments = sum_run(run, regressors, noise.order, 3)
        found |= names_of(solve_run(moments, regressors, noise, Scaling("run"), chunks))
        blocks = da.from_array(np.zeros((260, 24)), chunks=(100, chunks))
        found |= names_of(
            solve_run(sum_blocks(blocks, regressors, noise.order), regressors, noise, Scaling(None), chunks)
        )
    models = [TrialModel(np.array([0]), np.eye(2)[:, :1], np.ones((1, 1)))]
    found |= names_of(
        *trial_maps(sum_run(run, regressors, 1), regressors, models, NoiseModel(1), Scaling("run"), chunks)
    )
    found |= names_of(mean_of_run("run.nii", Preparation(space)))
    assert {"solve-run", "cluster-noise", "mean-of-run", "from-value-trial-betas-concatenate"} <= found
    assert understandable(found)


def _image(values):
    import nibabel as nib

    return nib.Nifti1Image(values, np.eye(4))


@pytest.fixture
def computed(monkeypatch):
    """Names of all tasks that are computed."""
    found = set()
    with Callback(start_state=lambda graph, _: found.update(key_split(key) for key in dict(graph))):
        yield found


def test_tasks_of_conversions_cohorts_and_permutations_have_names(cohort, computed, tmp_path):
    daskglm.convert(cohort.paths, str(tmp_path / "cohort.zarr"))
    assert run_cohort({"sub-1": [1, 2], "sub-2": [3]}, float, lambda _, found: found, 2) == [[1.0, 2.0], [3.0]]
    images = daskglm.open_images(str(tmp_path / "cohort.zarr"))
    from daskglm.inference.permutation import permutation_test

    permutation_test(images, cohort.design, {"age": "age"}, n_perm=70, threshold=0.05, n_jobs=2)
    assert {"write-chunk", "count-observed", "fit-run", "combine-runs", "permute-block", "enhance-maps"} <= computed
    assert understandable(computed)


def test_keys_differ_by_contents_and_agree_where_those_do(cohort):
    design = cohort.design.to_numpy()

    def keys(mask=None, scale=1.0):
        data = lazy_array(load_images(cohort.paths, Options(mask_img=mask)).images["data"])
        return set(
            dict(
                solve_moments(
                    sum_moments(data, orthonormal_basis(design), scale * design), 3, data.dtype
                ).__dask_graph__()
            )
        )

    def common(some, others):
        return {key_split(key) for key in some & others}

    first = keys(cohort.mask_img)
    assert first == keys(cohort.mask_img)
    assert common(first, keys(cohort.mask_img, 2.0)) <= {"read-images", "preparation", "array", "original-array"}
    half = cohort.mask_img.get_fdata().copy()
    half[:3] = 0
    smaller = type(cohort.mask_img)(half.astype(np.uint8), cohort.mask_img.affine)
    assert not common(first, keys(smaller)) & {
        "read-images",
        "sum-moments",
        "sum-moments-aggregate",
        "solve",
        "preparation",
    }
    assert task("read", slow, 1).key != task("read", slow, 1).key
    assert shared("design", cohort.design).key == shared("design", cohort.design.copy()).key
    assert shared("design", cohort.design).key != shared("design", pd.DataFrame(2 * cohort.design)).key


SCRIPT = """
import os, sys, time
from contextlib import nullcontext
import daskglm
from daskglm.graph.compute import compute, task

folder, cluster = sys.argv[1:]

def work(k):
    open(f"{folder}/begun-{k}", "w").close()
    try:
        for _ in range(3000):
            time.sleep(0.01)
    finally:
        open(f"{folder}/left-{k}", "w").close()
    return k

if __name__ == "__main__":
    with daskglm.connect("local") if cluster else nullcontext():
        try:
            compute(*[task("work", work, k) for k in range(40)], n_jobs=2, progress="Working")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.parametrize("cluster", ["", "local"])
def test_an_interruption_ends_tasks_within_seconds(tmp_path, cluster):
    """A real process and SIGINT to its group, as a terminal sends it; 40 tasks of 30 s."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), cluster], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("begun-*"))) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        took = time.monotonic() - started
    finally:
        process.kill()
    assert "interrupted" in output, errors
    assert took < (10 if cluster else 3), took
    begun = {path.name.partition("-")[2] for path in tmp_path.glob("begun-*")}
    assert len(begun) <= 4
    if not cluster:
        assert process.returncode == 0, errors
        assert {path.name.partition("-")[2] for path in tmp_path.glob("left-*")} == begun
        assert errors.splitlines()[-1].startswith("Working: stopped at 0 of 40 tasks after "), errors
