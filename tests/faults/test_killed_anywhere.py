"""The main process is killed at random moments: each time the same command, or ``resume``, goes on.

``python tests/benchmarks/kill_anywhere.py --moments 100`` does more.
"""

import pytest
from killing import kill_anywhere, make_inputs

import daskglm
from daskglm.io import store_writing

MOMENTS = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("command", ["convert", "group", "permute", "first-level"])
def test_killed_anywhere(inputs, tmp_path, command):
    kills = kill_anywhere(command, inputs[command], tmp_path, MOMENTS, seed=1)
    assert kills.n == MOMENTS
    assert sum(kills.whole) > 0  # some came in the middle


def test_killed_while_a_column_was_created(cohort, tmp_path, monkeypatch):
    """A folder with a part of its first file is no other's: the conversion goes on."""
    store, create = tmp_path / "all.zarr", store_writing._create

    def kill(group, name, *given):
        if name != "source_size":
            return create(group, name, *given)
        (store / name).mkdir()
        (store / name / f"zarr.{'0' * 32}.partial").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(store_writing, "_create", kill)
        with pytest.raises(KeyboardInterrupt):
            daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    assert list(store.rglob("*.partial"))
    daskglm.convert(cohort.paths, str(store), mask=cohort.mask_img)
    assert daskglm.open_images(str(store)).sizes["sample"] == 12
    assert not list(store.rglob("*.partial"))
