"""nilearn's own pictures take what daskglm's models give, as the docstring of daskglm.plotting says."""

import numpy as np
import pandas as pd
import pytest
from nilearn import plotting

import daskglm


@pytest.fixture
def model(cohort):
    return daskglm.SecondLevelModel(mask_img=cohort.mask_img).fit(cohort.paths, design_matrix=cohort.design)


def test_designs_and_contrasts(model):
    design = model.design_matrix_
    axes = plotting.plot_design_matrix(design)
    assert [item.get_text() for item in axes.get_xticklabels()] == ["age", "male", "intercept"]
    image = plotting.plot_design_matrix_correlation(design)
    np.testing.assert_allclose(image.get_array()[0, 1], np.corrcoef(design["age"], design["male"])[0, 1])
    axes = plotting.plot_contrast_matrix("age - male", design)
    np.testing.assert_array_equal(axes.images[0].get_array(), [[1, -1, 0]])


def test_events():
    events = pd.DataFrame({"onset": [0.0, 5, 9], "duration": 2.0, "trial_type": ["a", "b", "a"]})
    design = daskglm.make_first_level_design_matrix(np.arange(20) * 2.0, events)
    assert len(plotting.plot_event(events).axes) == 1
    assert "a" in [item.get_text() for item in plotting.plot_design_matrix(design).get_xticklabels()]


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
@pytest.mark.parametrize("draw", ["plot_stat_map", "plot_glass_brain", "plot_img_on_surf"])
def test_maps(model, draw, tmp_path):
    z = model.compute_contrast("age")
    getattr(plotting, draw)(z, threshold=1.0, output_file=tmp_path / "z.png")
    assert (tmp_path / "z.png").stat().st_size > 5_000


def test_the_package_is_an_attribute():
    assert daskglm.plotting.plot_voxel.__module__ == "daskglm.plotting.voxels"
