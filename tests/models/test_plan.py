"""Plans against what runs do: bytes, tasks, files, and refusals that name what does fit."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
from dask.callbacks import Callback
from test_cohort import dataset  # noqa: F401 (a fixture)

from daskglm import first_level_analysis, open_images
from daskglm.errors import ContrastError, DiskSpaceError, ImageError, MemoryLimitError
from daskglm.graph.planning import Machine
from daskglm.models.convert import convert
from daskglm.models.group import group_analysis
from daskglm.models.inputs import load_images
from daskglm.models.options import Options
from daskglm.models.permutation_analysis import permutation_analysis
from daskglm.models.plan import MB, Needs, Plan, check_resources, folder_bytes
from daskglm.models.plan_convert import plan_conversion
from daskglm.models.plan_first_level import plan_first_level
from daskglm.models.plan_group import plan_group
from daskglm.models.plan_permute import plan_permutation

HERE = Machine(1, 2, 2**34, False, 2**34)
PLAN = Plan("group", "images", HERE, Needs(0, 0, 0), Needs(0, 0, 0), 0, 0, 0, 1)


class Executed(Callback):
    """Counts the tasks that run, but for those within tasks."""

    def __init__(self):
        self.keys = []

    def _posttask(self, key, *_):
        self.keys.append(key)


def refuse(*_, **__):
    raise AssertionError("a plan computed something")


def size_of(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def store(cohort, tmp_path):
    path = str(tmp_path / "all.zarr")
    convert(cohort.paths, path, participants=cohort.table_path, mask=cohort.mask_img)
    return path


@pytest.mark.parametrize("masked", [True, False])
def test_group_reads_and_runs_what_was_planned(cohort, tmp_path, masked):
    given = {"participants": cohort.table_path, "mask": cohort.mask_img if masked else None}
    with dask.config.set(scheduler=refuse):
        plan = plan_group(cohort.paths, None, "~ age", {"age": "age"}, **given)
    passes = 1 if masked else 2
    assert plan.bytes_read == passes * sum(Path(path).stat().st_size for path in cohort.paths)
    with Executed() as executed:
        group_analysis(cohort.paths, str(tmp_path / "out"), "~ age", {"age": "age"}, **given)
    assert plan.n_tasks == len(executed.keys)
    written = size_of(tmp_path / "out")
    assert written <= plan.bytes_written <= written + 3 * MB
    assert plan.seconds is None


def test_group_of_a_store(cohort, store):
    plan = plan_group(store, None, "~ age", {"age": "age"})
    assert plan.bytes_read == size_of(Path(store) / "data")
    with pytest.raises(ContrastError, match="did you mean 'age'"):
        plan_group(store, None, "~ age", {"agw": "agw"})


@pytest.mark.parametrize("more", [{}, {"tfce": True}, {"threshold": 0.01}])
def test_permutation_runs_what_was_planned(cohort, store, tmp_path, more):
    given = ("~ age", {"age": "age"})
    with dask.config.set(scheduler=refuse):
        plan = plan_permutation(store, None, *given, n_perm=600, **more)
    with Executed() as executed:
        permutation_analysis(store, str(tmp_path / "out"), *given, n_perm=600, **more)
    assert plan.n_tasks == len(executed.keys), Counter(str(key).split("-")[0] for key in executed.keys)
    written = size_of(tmp_path / "out")
    assert written <= plan.bytes_written + plan.scratch <= written + 3 * MB
    assert plan.scratch >= size_of(tmp_path / "out" / ".permutations") > 0.3 * plan.scratch


@pytest.mark.parametrize("masked", [True, False])
def test_conversion_runs_and_writes_what_was_planned(cohort, tmp_path, masked):
    path, mask = str(tmp_path / "new.zarr"), cohort.mask_img if masked else None
    with dask.config.set(scheduler=refuse):
        plan = plan_conversion(cohort.paths, path, participants=cohort.table_path, mask=mask)
    assert not Path(path).exists()
    with Executed() as executed:
        convert(cohort.paths, path, participants=cohort.table_path, mask=mask)
    assert plan.n_tasks == len(executed.keys)
    assert plan.bytes_read == (1 if masked else 2) * sum(Path(path).stat().st_size for path in cohort.paths)
    assert size_of(path) <= plan.bytes_written <= size_of(path) + MB
    again = plan_conversion(cohort.paths, path, participants=cohort.table_path)
    assert (again.n_tasks, again.bytes_read) == (0, 0)
    assert again.notes == ("12 images in the store already",)


def test_conversion_is_refused_by_headers(cohort, tmp_path):
    Path(cohort.paths[3]).write_bytes(b"")
    with pytest.raises(ImageError, match="sub-04"):
        plan_conversion(cohort.paths, str(tmp_path / "new.zarr"))
    plan = plan_conversion(cohort.paths, str(tmp_path / "new.zarr"), on_error="quarantine")
    assert "1 image left out" in plan.notes[0]


def test_a_refusal_names_a_block_that_fits(monkeypatch):
    rng = np.random.default_rng(0)
    images = wide_images(rng)
    limit = 600 * MB
    monkeypatch.setattr("daskglm.models.plan_group.machine", lambda _: Machine(2, 4, limit, True, 2**34))
    plan = plan_group(images, None, "~ 1", {"intercept": "intercept"})
    assert plan.complete.of_worker(plan.machine) > limit
    with pytest.raises(MemoryLimitError, match=r"blocks of (\d+) voxels") as refused:
        check_resources(plan)
    voxels = int(re.search(r"blocks of (\d+) voxels", str(refused.value))[1])
    fitting = plan_group(images.chunk(voxel=voxels), None, "~ 1", {"intercept": "intercept"})
    check_resources(fitting)
    assert fitting.memory_per_worker <= limit
    threads = int(re.search(r"use (\d+) threads?", str(refused.value))[1])
    assert plan.complete.of_worker(plan.machine, threads) <= limit < plan.complete.of_worker(plan.machine, threads + 1)
    assert isinstance(refused.value, MemoryError)


def wide_images(rng):
    """Lazy images of 64 samples and 200,000 voxels in one block: nothing is made before it is computed."""
    import dask.array as da
    import nibabel as nib

    from daskglm.schema.datasets import images_dataset
    from daskglm.schema.space import VolumeSpace

    space = VolumeSpace.from_image(nib.Nifti1Image(np.zeros((50, 50, 80), np.float32), np.eye(4)))
    data = da.zeros((64, 200_000), dtype=np.float32, chunks=(64, -1))
    return images_dataset(data, [f"sub-{k:02d}" for k in range(64)], space)


def test_voxels_that_lack_images_make_a_warning_not_a_refusal():
    tight = replace(HERE, memory=300 * MB, cluster=True)
    plan = replace(PLAN, machine=tight, needs=Needs(0, 500 * MB, 0), complete=Needs(0, MB, 0))
    with pytest.warns(UserWarning, match="if every voxel lacks an image"):
        check_resources(plan)


def test_what_the_client_gathers_is_checked(monkeypatch):
    crowded = Machine(4, 1, 2**34, True, 100 * MB)
    with pytest.raises(MemoryLimitError, match="gathers its results here"):
        check_resources(replace(PLAN, machine=crowded))


def test_too_little_disk_is_refused(tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(10**9, 10**9 - 5 * 10**6, 5 * 10**6)
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or free)
    output = str(tmp_path / "absent" / "out")
    check_resources(replace(PLAN, bytes_written=3 * 10**6, scratch=2 * 10**6), output)
    with pytest.raises(DiskSpaceError, match=r"up to 6 MB .* 5 MB are free") as refused:
        check_resources(replace(PLAN, bytes_written=3 * 10**6, scratch=3 * 10**6), output)
    assert isinstance(refused.value, OSError)
    assert asked[0] == str(tmp_path)
    check_resources(replace(PLAN, bytes_written=10**15), "s3://bucket/out")


def test_a_plan_of_the_cluster_knows_its_workers(store):
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 3, "memory_limit": "1GB", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options, processes=False) as cluster, Client(cluster):
        plan = plan_group(store, None, "~ age", {"age": "age"})
    assert plan.machine == replace(plan.machine, workers=2, threads=3, memory=10**9, cluster=True)


def test_runs_are_refused_before_they_read(cohort, dataset, store, tmp_path):  # noqa: F811
    from distributed import Client, LocalCluster

    model = ("~ age", {"age": "age"})
    runs = {
        "convert": lambda output: convert(cohort.paths, f"{output}.zarr", mask=cohort.mask_img),
        "group": lambda output: group_analysis(store, output, *model),
        "permute": lambda output: permutation_analysis(store, output, *model, n_perm=100),
        "first-level": lambda output: first_level_analysis(str(dataset), output, {"c": "a - b"}),
    }
    options = {"n_workers": 1, "threads_per_worker": 2, "memory_limit": "100MB", "dashboard_address": "127.0.0.1:0"}
    message = r"a worker may have 100 MB, but {} takes up to \d+ MB on 2 threads .*give each worker (\d+) MB"
    with LocalCluster(**options, processes=False) as cluster, Client(cluster):
        for name, run in runs.items():
            with pytest.raises(MemoryLimitError, match=message.format(name)) as refused:
                run(str(tmp_path / name))
            # What it names does fit.
            fits = int(re.search(r"give each worker (\d+) MB", str(refused.value))[1]) * 10**6
            assert int(re.search(r"takes up to (\d+) MB", str(refused.value))[1]) * 10**6 < fits
        assert cluster.scheduler.transition_counter == 0
    assert not list(tmp_path.glob("*/provenance.json"))
    assert not (tmp_path / "convert.zarr").exists()


def test_what_an_interrupted_run_kept_needs_no_more_space(tmp_path, monkeypatch):
    free = shutil._ntuple_diskusage(10**9, 10**9 - 5 * 10**6, 5 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "unit.npz").write_bytes(bytes(2 * 10**6))
    plan = replace(PLAN, bytes_written=3 * 10**6, scratch=3 * 10**6)
    with pytest.raises(DiskSpaceError):
        check_resources(plan, str(tmp_path))
    check_resources(plan, str(tmp_path), kept=folder_bytes(str(tmp_path / "kept")))
    assert folder_bytes(str(tmp_path / "absent")) == 0


def test_calibration_reads_and_gives_a_time(cohort, store):
    plans = [
        plan_conversion(cohort.paths, None, calibrate=True),
        plan_group(cohort.paths, None, "~ 1", {"intercept": "intercept"}, mask=cohort.mask_img, calibrate=True),
        plan_group(store, None, "~ age", {"age": "age"}, calibrate=True),
        plan_permutation(store, None, "~ age", {"age": "age"}, threshold=0.01, calibrate=True),
    ]
    assert all(0 < plan.seconds < 600 for plan in plans)


def test_open_images_is_planned_as_its_store(store):
    images, of_path = open_images(store), plan_group(store, None, "~ age", {"age": "age"})
    assert plan_group(images, None, "~ age", {"age": "age"}).needs == of_path.needs


def test_first_level_reads_and_runs_what_was_planned(dataset, tmp_path):  # noqa: F811
    given = (str(dataset), None, {"a - b": "a - b"})
    with dask.config.set(scheduler=refuse):
        plan = plan_first_level(*given)
    bolds = list((dataset / "derivatives").rglob("*_bold.nii.gz"))
    assert plan.bytes_read == sum(path.stat().st_size for path in bolds)
    with Executed() as executed:
        first_level_analysis(given[0], str(tmp_path / "out"), given[2])
    done = Counter(str(key).split("-")[0] for key in executed.keys)
    # The tasks that each run makes within its own are no part of the graph.
    assert plan.n_tasks == done["fit"] + done["combine"] + done["count"] + done["write"], done
    written = size_of(tmp_path / "out")
    assert written <= plan.bytes_written <= written + 10 * MB
    for path in dataset.rglob("*_mask.nii.gz"):
        path.unlink()
    blind = plan_first_level(*given)
    assert blind.bytes_read == 2 * plan.bytes_read
    assert "no brain mask" in blind.notes[0]
    assert 0 < plan_first_level(*given, calibrate=True).seconds < 600


def test_first_level_refuses_as_the_analysis(dataset, tmp_path):  # noqa: F811
    with pytest.raises(ContrastError) as planned:
        plan_first_level(str(dataset), None, {"c": "a - house"})
    with pytest.raises(ContrastError) as run:
        first_level_analysis(str(dataset), str(tmp_path / "out"), {"c": "a - house"})
    assert str(planned.value) == str(run.value)


def test_loaded_images_are_planned_at_once(cohort):
    loaded = load_images(cohort.paths, Options(cohort.mask_img))
    quick = plan_group(loaded, None, "~ 1", {"intercept": "intercept"})
    whole = plan_group(cohort.paths, None, "~ 1", {"intercept": "intercept"}, mask=cohort.mask_img)
    assert replace(quick, n_tasks=whole.n_tasks, machine=whole.machine) == whole
