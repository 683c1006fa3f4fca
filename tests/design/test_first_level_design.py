"""Design matrices of a run against nilearn's, and what nilearn has not, from first principles."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naming import without_addresses
from nilearn.glm.first_level import check_design_matrix as oracle_check
from nilearn.glm.first_level import make_first_level_design_matrix as oracle

from daskglm.design.first_level import check_design_matrix, frame_times, make_first_level_design_matrix
from daskglm.design.regressors import compute_regressor
from daskglm.errors import DesignError, ParameterError

TIMES = frame_times(90, 2.0, 0.5)
RNG = np.random.default_rng(5)
EVENTS = pd.DataFrame(
    {
        "trial_type": ["stop", "go", "go", "rest", "stop", "go"] * 3,
        "onset": np.sort(RNG.uniform(0, 150, 18)).round(2),
        "duration": RNG.uniform(0.5, 6, 18).round(2),
    }
)
MODULATED = EVENTS.assign(modulation=RNG.uniform(-1, 2, 18))
MOTION = pd.DataFrame(RNG.standard_normal((90, 2)), columns=["x", "y"], index=range(5, 95))


def ramp(t_r, oversampling):
    return np.arange(2.0 * oversampling)


def flat(t_r, oversampling):
    return np.ones(oversampling)


def quiet(function, *arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


def assert_equals_oracle(times, events, **named):
    found = quiet(make_first_level_design_matrix, times, events, **named)
    expected = quiet(oracle, times, events, **named)
    assert found.columns.tolist() == expected.columns.tolist()
    assert np.array_equal(found.index, expected.index)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10 * np.abs(expected.to_numpy()).max())
    return found


def column(events, amplitudes, model="glover"):
    return compute_regressor((events["onset"], events["duration"], amplitudes), model, TIMES)[0]


@pytest.mark.parametrize("drift", ["cosine", "polynomial", None])
@pytest.mark.parametrize(
    "model",
    ["glover", "SPM", "spm + derivative", "glover + derivative + dispersion", "fir", None, ramp, [ramp, flat]],
    ids=without_addresses,
)
def test_equals_nilearn(model, drift):
    named = {"hrf_model": model, "drift_model": drift, "drift_order": 3, "fir_delays": [0, 1, 2, 5]}
    for events in (EVENTS, MODULATED):
        assert_equals_oracle(TIMES, events, **named)


@pytest.mark.parametrize("t_r", [0.72, 1.35])
@pytest.mark.parametrize("min_onset", [-24, 0])
def test_options_equal_nilearn(t_r, min_onset):
    named = {"high_pass": 0.02, "min_onset": min_onset, "oversampling": 16, "hrf_model": "spm + derivative"}
    early = MODULATED.assign(onset=MODULATED["onset"] - 30)
    assert_equals_oracle(frame_times(200, t_r), early, **named)


@pytest.mark.parametrize(
    "extra",
    [
        {"add_regs": MOTION},
        {"add_regs": MOTION, "add_reg_names": ["ignored"]},
        {"add_regs": MOTION.to_numpy()},
        {"add_regs": MOTION.to_numpy(), "add_reg_names": ["pitch", "roll"]},
        {"add_regs": (MOTION.to_numpy() * 10).astype(int).tolist()},
    ],
    ids=["frame", "frame_named", "array", "array_named", "list"],
)
@pytest.mark.parametrize("events", [None, MODULATED], ids=["rest", "task"])
def test_additional_regressors_equal_nilearn(events, extra):
    assert_equals_oracle(TIMES, events, **extra)


def test_one_additional_regressor():
    design = make_first_level_design_matrix(TIMES, add_regs=np.arange(90))
    assert design["reg0"].tolist() == list(range(90))
    nullable = pd.DataFrame({"a": pd.array(range(90), dtype="Int64")})
    assert make_first_level_design_matrix(TIMES, add_regs=nullable)["a"].tolist() == list(range(90))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "B", "c d"]),
            st.floats(-20, 140),
            st.one_of(st.just(0.0), st.floats(0.01, 30)),
            st.sampled_from([0.5, 1.0, 2.25, 3.1]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["spm", "glover + derivative", "fir", None]),
    st.sampled_from(["cosine", "polynomial", None]),
)
def test_random_events_equal_nilearn(rows, model, drift):
    events = pd.DataFrame(rows, columns=["trial_type", "onset", "duration", "modulation"])
    found = quiet(make_first_level_design_matrix, TIMES, events, model, drift)
    singular = np.linalg.svd(found, compute_uv=False)
    if singular.min() > 1e-14 * singular.max():  # nilearn changes others
        assert_equals_oracle(TIMES, events, hrf_model=model, drift_model=drift)


def test_numbers_as_conditions():
    events = EVENTS.assign(trial_type=[2, 10, 1] * 6)
    design = make_first_level_design_matrix(TIMES, events, drift_model=None)
    assert design.columns.tolist() == ["1", "2", "10", "constant"]
    expected = quiet(oracle, TIMES, events, drift_model=None)
    np.testing.assert_allclose(design, expected, atol=1e-12)
    mixed = make_first_level_design_matrix(TIMES, EVENTS.assign(trial_type=[2, "10", "x"] * 6), drift_model=None)
    assert mixed.columns.tolist() == ["10", "2", "x", "constant"]
    categories = EVENTS.astype({"trial_type": pd.CategoricalDtype(["stop", "rest", "go", "never"])})
    assert make_first_level_design_matrix(TIMES, categories).columns[:3].tolist() == ["go", "rest", "stop"]


def test_singular_designs_are_left_alone():
    twice = pd.concat([EVENTS.assign(trial_type=name) for name in "ab"])
    design = make_first_level_design_matrix(TIMES, twice)
    assert np.array_equal(design["a"], design["b"])


@pytest.mark.parametrize("model", ["glover", "spm + derivative", "fir"])
def test_centred_modulation(model):
    design = make_first_level_design_matrix(TIMES, MODULATED, model, modulators="centered")
    unmodulated = make_first_level_design_matrix(TIMES, EVENTS, model)
    pd.testing.assert_frame_equal(design[unmodulated.columns], unmodulated)
    for name, events in MODULATED.groupby("trial_type"):
        amplitudes = events["modulation"] - events["modulation"].mean()
        columns = [c for c in design.columns if c.startswith(f"{name}_x_modulation")]
        np.testing.assert_allclose(design[columns], column(events, amplitudes, model), atol=1e-12)
    shifted = MODULATED.assign(modulation=MODULATED["modulation"] + 100)
    again = make_first_level_design_matrix(TIMES, shifted, model, modulators="centered")
    np.testing.assert_allclose(again, design, atol=1e-9)


def test_order_of_columns():
    named = {"modulators": "centered", "duration_modulation": True, "add_regs": MOTION, "drift_model": None}
    design = make_first_level_design_matrix(TIMES, MODULATED, "spm + derivative", **named)
    assert design.columns[:6].tolist() == [
        "go",
        "go_derivative",
        "go_x_modulation",
        "go_x_modulation_derivative",
        "go_x_duration",
        "go_x_duration_derivative",
    ]
    assert design.columns[-3:].tolist() == ["x", "y", "constant"]


@pytest.mark.parametrize("model", ["glover", "spm + derivative + dispersion", "fir"])
def test_orthogonalised_modulation(model):
    named = {"hrf_model": model, "duration_modulation": True}
    design = make_first_level_design_matrix(TIMES, MODULATED, modulators="orthogonalized", **named)
    centred = make_first_level_design_matrix(TIMES, MODULATED, modulators="centered", **named)
    assert design.columns.equals(centred.columns)
    for condition in ("go", "stop", "rest"):
        own = [c for c in design.columns if c.startswith(condition)]
        modulated = [c for c in own if "_x_" in c]
        main = [c for c in own if "_x_" not in c]
        assert len(modulated) == 2 * len(main)
        pd.testing.assert_frame_equal(design[main], centred[main])
        scale = np.linalg.norm(design[main], axis=0).max() * np.linalg.norm(design[modulated], axis=0).max()
        assert np.abs(design[main].T.to_numpy() @ design[modulated].to_numpy()).max() < 1e-10 * scale
        # What was taken away is in the span of the condition.
        taken = (centred[modulated] - design[modulated]).to_numpy()
        basis = np.linalg.qr(design[main].to_numpy())[0]
        np.testing.assert_allclose(basis @ (basis.T @ taken), taken, atol=1e-10)


def test_duration_modulation():
    design = make_first_level_design_matrix(TIMES, EVENTS, duration_modulation=True)
    for name, events in EVENTS.groupby("trial_type"):
        amplitudes = events["duration"] - events["duration"].mean()
        np.testing.assert_allclose(design[[f"{name}_x_duration"]], column(events, amplitudes), atol=1e-12)
    pd.testing.assert_frame_equal(
        design[[c for c in design.columns if "_x_" not in c]], make_first_level_design_matrix(TIMES, EVENTS)
    )


def test_times_of_scans_to_the_ends_of_what_is_allowed():
    for t_r in (1e-3, 2.0, 99.9):
        for reference in (0, 0.25, 1):
            expected = [(k + reference) * t_r for k in range(4)]
            np.testing.assert_allclose(frame_times(4, t_r, reference), expected, rtol=1e-12)


def test_what_does_not_vary_is_not_modulated():
    constant = EVENTS.assign(modulation=3.0, duration=2.0)
    design = make_first_level_design_matrix(TIMES, constant, modulators="centered", duration_modulation=True)
    pd.testing.assert_frame_equal(design, make_first_level_design_matrix(TIMES, EVENTS.assign(duration=2.0)))
    without = make_first_level_design_matrix(TIMES, EVENTS, modulators="orthogonalized")
    pd.testing.assert_frame_equal(without, make_first_level_design_matrix(TIMES, EVENTS))


@pytest.mark.parametrize(("step", "varies"), [(1e-6, True), (1e-10, False)])
def test_modulations_that_differ_by_more_than_rounding_are_some(step, varies):
    amplitudes = 50.0 * (1 + step * np.linspace(-0.5, 0.5, len(EVENTS)))
    modulated = EVENTS.assign(modulation=np.random.default_rng(0).permutation(amplitudes))
    design = make_first_level_design_matrix(TIMES, modulated, modulators="centered")
    for name, events in modulated.groupby("trial_type"):
        assert (f"{name}_x_modulation" in design) == varies
        if varies:
            expected = column(events, events["modulation"] - events["modulation"].mean())
            np.testing.assert_allclose(design[[f"{name}_x_modulation"]], expected, atol=1e-12)


def test_duplicates_without_a_modulation_are_no_modulation():
    twice = pd.concat([EVENTS, EVENTS.iloc[:1]])
    designs = []
    for modulators in ("raw", "centered"):
        with pytest.warns(UserWarning, match="Duplicated events"):
            designs.append(make_first_level_design_matrix(TIMES, twice, modulators=modulators))
    pd.testing.assert_frame_equal(*designs)


@pytest.mark.parametrize("modulators", ["raw", "centered", "orthogonalized"])
def test_early_events_are_dropped(modulators):
    events = pd.concat([MODULATED, MODULATED.iloc[:2].assign(onset=[-40.0, -30.0], modulation=50.0)])
    events = pd.concat([events, MODULATED.iloc[:1].assign(trial_type="only early", onset=-50.0)])
    with pytest.warns(UserWarning, match="onsets are earlier than -23 s") as record:
        design = make_first_level_design_matrix(
            TIMES, events, modulators=modulators, duration_modulation=True, drop_early_events=True
        )
    assert len(record) == 3
    assert {str(w.message).split("'")[1] for w in record} == {"go", "only early", "stop"}
    assert all("left out" in str(w.message) for w in record)
    kept = make_first_level_design_matrix(TIMES, MODULATED, modulators=modulators, duration_modulation=True)
    pd.testing.assert_frame_equal(design, kept)


def test_events_outside_are_reported():
    outside = EVENTS.assign(onset=[-30.0, *EVENTS["onset"][1:-1], 500.0])
    with (
        pytest.warns(UserWarning, match="earlier than -23 s: those of 'stop' at -30 s; they are moved"),
        pytest.warns(UserWarning, match="after the last scan: those of 'go' at 500 s"),
    ):
        make_first_level_design_matrix(TIMES, outside)


def test_no_events():
    with pytest.warns(UserWarning, match="no rows"):
        design = make_first_level_design_matrix(TIMES, EVENTS.iloc[:0])
    pd.testing.assert_frame_equal(design, make_first_level_design_matrix(TIMES))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"add_regs": np.where(np.arange(90) == 3, np.nan, 1.0)}, "Extra regressors contain NaN values, in row 3"),
        ({"add_regs": MOTION.replace(MOTION.iloc[0, 0], np.inf)}, "Extra regressors are not finite, in row 0"),
        ({"add_regs": MOTION.iloc[:50]}, "50 rows and there are 90 scans"),
        ({"add_regs": np.zeros((90, 1, 1))}, r"its shape is \(90, 1, 1\)"),
        ({"add_regs": MOTION.assign(x="a")}, "columns x of add_regs are not numeric"),
        ({"add_regs": MOTION * 1j}, "columns x, y of add_regs are not numeric"),
        ({"add_regs": MOTION.to_numpy(), "add_reg_names": ["x"]}, "1 names and 2 columns"),
        ({"add_reg_names": ["x"]}, "1 names and 0 columns"),
        ({"add_regs": MOTION.set_axis(["go", "constant"], axis=1)}, "unique names: go, constant occur"),
        ({"drift_model": "spline"}, "no drift model"),
        ({"hrf_model": "glovre"}, "no hrf_model"),
    ],
)
def test_errors(named, message):
    with pytest.raises(DesignError, match=message):
        make_first_level_design_matrix(TIMES, EVENTS, **named)


@pytest.mark.parametrize("error", [DesignError, AssertionError])
def test_rows_of_additional_regressors(error):
    """nilearn asserts their number."""
    with pytest.raises(error, match="additional regressors have one row a scan"):
        make_first_level_design_matrix(TIMES, add_regs=MOTION.to_numpy()[:-1])


def test_bad_parameters():
    with pytest.raises(ParameterError, match="modulators must be 'raw', 'centered' or 'orthogonalized', got 'spm'"):
        make_first_level_design_matrix(TIMES, EVENTS, modulators="spm")
    with pytest.raises(ParameterError, match="min_onset"):
        make_first_level_design_matrix(TIMES, EVENTS, min_onset=5)
    with pytest.raises(DesignError, match="increase"):
        make_first_level_design_matrix(TIMES[::-1], EVENTS)
    with pytest.raises(DesignError, match="trial_type"):
        make_first_level_design_matrix(TIMES, EVENTS.replace("rest", np.nan))


def test_frame_times():
    assert frame_times(1, 2.0).tolist() == [0.0]
    for n, t_r, reference in [(100, 0.72, 0.0), (7, 2, 0.5), (50, 1.35, 1)]:
        expected = np.linspace(reference * t_r, (n - 1 + reference) * t_r, n)
        assert np.array_equal(frame_times(n, t_r, reference), expected)
        assert frame_times(n, t_r, reference).dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2.0), "n_volumes is a whole number"),
        ((2.5, 2.0), "n_volumes is a whole number"),
        ((5, 0.0), "t_r is a positive number"),
        ((5, np.nan), "t_r is a positive number"),
        ((5, 100), "t_r must be in seconds and below 100, got 100; if these are milliseconds, give 0.1$"),
        ((5, 2000), "t_r must be in seconds and below 100, got 2000; if these are milliseconds, give 2$"),
        ((5, 2.0, -0.1), "slice_time_ref is a fraction"),
        ((5, 2.0, 1.1), "slice_time_ref is a fraction"),
        ((5, 2.0, np.nan), "slice_time_ref is a fraction"),
    ],
)
def test_bad_frame_times(arguments, message):
    with pytest.raises(ParameterError, match=message):
        frame_times(*arguments)


def test_check_design_matrix():
    design = make_first_level_design_matrix(TIMES, EVENTS)
    found, expected = check_design_matrix(design), oracle_check(design)
    assert found[0].equals(expected[0])
    assert np.array_equal(found[1], expected[1])
    assert found[2] == expected[2]
    assert check_design_matrix(pd.DataFrame({"a": [1, 2]}))[1].dtype == np.float64
    with pytest.raises(DesignError, match="cannot be empty"):
        check_design_matrix(pd.DataFrame())
    with pytest.raises(DesignError, match="columns b of the design matrix are not numeric"):
        check_design_matrix(pd.DataFrame({"a": [1.0], "b": ["x"]}))
    with pytest.raises(DesignError, match="this is ndarray"):
        check_design_matrix(np.eye(3))


@pytest.mark.parametrize("within", [True, False])
def test_mixed_durations_are_told_and_unit_impulses_weigh_as_a_second(within):
    names = ["a", "a"] if within else ["a", "b"]
    events = pd.DataFrame({"trial_type": names, "onset": [10.0, 90.0], "duration": [0.0, 1.0]})
    told = r"without duration \(a\) are mixed .*t_r / oversampling = 0\.04 s.* depend on t_r and .* 1/25 of .*'unit'"
    with pytest.warns(UserWarning, match="null duration"), pytest.warns(UserWarning, match=told):
        sample = make_first_level_design_matrix(TIMES, events, drift_model=None)
    with pytest.warns(UserWarning, match="null duration") as met:
        unit = make_first_level_design_matrix(TIMES, events, drift_model=None, impulse="unit")
    assert len(met) == 1
    early, late = TIMES < 60, TIMES > 60
    last = names[-1]
    assert sample["a"][early].max() < sample[last][late].max() / 20
    assert unit["a"][early].max() == pytest.approx(unit[last][late].max(), rel=0.1)
    alike = events.assign(duration=0.0)
    with pytest.warns(UserWarning, match="null duration") as met:
        make_first_level_design_matrix(TIMES, alike)
    assert len(met) == 1


@pytest.mark.parametrize(("spread", "varies"), [(1e-6, True), (1e-10, False)])
def test_amplitudes_that_differ_by_rounding_alone_are_no_modulation(spread, varies):
    events = EVENTS.assign(modulation=100 * (1 + spread * np.linspace(-1, 1, len(EVENTS))))
    names = make_first_level_design_matrix(TIMES, events, modulators="centered", drift_model=None).columns
    assert any("_x_modulation" in name for name in names) == varies
