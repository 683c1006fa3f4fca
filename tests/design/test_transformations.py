"""Instructions of BIDS Stats Models for events; expected values by hand, as pybids defines them."""

import numpy as np
import pandas as pd
import pytest

from daskglm.design.transformations import transform_events, variables_after
from daskglm.errors import DesignError, ParameterError

EVENTS = pd.DataFrame({
    "onset": [1.0, 5, 9, 13, 17],
    "duration": [2.0, 2, 2, 2, 2],
    "trial_type": ["go", "stop", "go", "stop", None],
    "rt": [0.5, 0.7, np.nan, 0.9, 1.1],
    "gain": [10.0, 20, 30, 40, 50],
    "loss": [5, 4, 3, 2, 1],
})  # fmt: skip


def variable(name, *steps, events=EVENTS):
    """Onset, duration and amplitude of what the steps make."""
    found = transform_events(events, [*steps, {"Name": "Select", "Input": [name]}])
    assert set(found["trial_type"]) <= {name}
    return found[["onset", "duration", "modulation"]].to_numpy().tolist()


def step(name, inputs, output=None, **more):
    return {"Name": name, "Input": inputs, **({} if output is None else {"Output": output}), **more}


ONSETS = (1, 5, 9, 13, 17)
CENTRED = [step("Demean", ["gain"], ["g"])]  # -20, -10, 0, 10, 20
GO_STOP = ["trial_type.go", "trial_type.stop"]
CASES = {
    "a column is its own variable": ("gain", [], [[1, 2, 10], [5, 2, 20], [9, 2, 30], [13, 2, 40], [17, 2, 50]]),
    "missing values are no events": ("rt", [], [[1, 2, 0.5], [5, 2, 0.7], [13, 2, 0.9], [17, 2, 1.1]]),
    "factor": ("trial_type.go", [step("Factor", ["trial_type"])], [[1, 2, 1], [9, 2, 1]]),
    "a level without Factor": ("trial_type.stop", [], [[5, 2, 1], [13, 2, 1]]),
    "a level that the run lacks": ("trial_type.wait", [step("Factor", ["trial_type"])], []),
    "levels of numbers": ("loss.4", [step("Factor", "loss")], [[5, 2, 1]]),
    "demean": ("g", [step("Demean", ["gain"], ["g"])], [[1, 2, -20], [5, 2, -10], [13, 2, 10], [17, 2, 20]]),
    "scale": ("z", [step("Scale", "loss", "z")],  # standard deviation of a sample: sqrt(10 / 4)
              [[on, 2, v / np.sqrt(2.5)] for on, v in ((1, 2), (5, 1), (13, -1), (17, -2))]),
    "scale without rescaling": ("loss", [step("Scale", "loss", Rescale=False)],
                                [[1, 2, 2], [5, 2, 1], [13, 2, -1], [17, 2, -2]]),
    "scale without demeaning": ("z", [step("Scale", "loss", "z", Demean=False)],
                                [[on, 2, v / np.sqrt(2.5)] for on, v in zip(ONSETS, (5, 4, 3, 2, 1), strict=True)]),
    "binarized": ("all", [step("Threshold", ["gain"], ["all"], Binarize=True)],
                  [[on, 2, 1] for on in (1, 5, 9, 13, 17)]),
    "below": ("low", [step("Threshold", ["loss"], ["low"], Threshold=2, Above=False)], [[13, 2, 2], [17, 2, 1]]),
    "product": ("gl", [step("Product", ["gain", "loss"], ["gl"])],
                [[1, 2, 50], [5, 2, 80], [9, 2, 90], [13, 2, 80], [17, 2, 50]]),
    "sum": ("s", [step("Sum", ["gain", "loss"], ["s"], Weights=[0.1, -1])],
            [[1, 2, -4], [5, 2, -2], [13, 2, 2], [17, 2, 4]]),
    "threshold of 0": ("g", [*CENTRED, step("Threshold", ["g"])], [[13, 2, 10], [17, 2, 20]]),
    "binarized at 0": ("g", [*CENTRED, step("Threshold", ["g"], Binarize="true")], [[on, 2, 1] for on in (9, 13, 17)]),
    "not binarized": ("g", [*CENTRED, step("Threshold", ["g"], Binarize="false")], [[13, 2, 10], [17, 2, 20]]),
    "below 0": ("g", [*CENTRED, step("Threshold", ["g"], Above=False)], [[1, 2, -20], [5, 2, -10]]),
    "below 0, binarized": ("g", [*CENTRED, step("Threshold", ["g"], Above=0, Binarize=1)],
                           [[on, 2, 1] for on in (1, 5, 9)]),
    "at the limit": ("g", [*CENTRED, step("Threshold", ["g"], Threshold=20)], [[17, 2, 20]]),
    "below, at the limit": ("g", [*CENTRED, step("Threshold", ["g"], Threshold=-20, Above=False)], [[1, 2, -20]]),
    "of any sign": ("g", [*CENTRED, step("Threshold", ["g"], Threshold=-20, Signed=False)], [[1, 2, 20], [17, 2, 20]]),
    "of a sign": ("g", [*CENTRED, step("Threshold", ["g"], Threshold=-10, Signed=True)],
                  [[5, 2, -10], [13, 2, 10], [17, 2, 20]]),
    "scale to nothing": ("loss", [step("Scale", "loss", Rescale=False, Demean="False")],
                         [[on, 2, v] for on, v in zip(ONSETS, (5, 4, 3, 2, 1), strict=True)]),
    "sum without weights": ("s", [step("Sum", ["gain", "loss"], ["s"])],
                            [[on, 2, v] for on, v in zip(ONSETS, (15, 24, 33, 42, 51), strict=True)]),
    "copy": ("gain", [step("Copy", ["gain"], ["g"]), step("Demean", ["g"])],
             [[on, 2, v] for on, v in zip(ONSETS, (10, 20, 30, 40, 50), strict=True)]),
    "assign onsets": ("late", [step("Assign", ["loss"], ["late"], Target=["gain"], InputAttr="onset")],
                      [[on, 2, on] for on in ONSETS]),
    "and of what excludes": ("x", [step("Factor", ["trial_type"]), step("And", GO_STOP, ["x"])], []),
    "or of one": ("x", [step("Factor", ["trial_type"]), step("Or", GO_STOP[:1], ["x"])], [[1, 2, 1], [9, 2, 1]]),
    "rename": ("win", [step("Rename", ["gain"], ["win"]), step("Demean", ["win"])],
               [[1, 2, -20], [5, 2, -10], [13, 2, 10], [17, 2, 20]]),
    "replace": ("rt", [step("Replace", ["rt"], Replace={"0.5": 5})],
                [[1, 2, 5], [5, 2, 0.7], [13, 2, 0.9], [17, 2, 1.1]]),
    "replace durations": ("loss", [step("Replace", ["loss"], Replace={"2": 0}, Attribute="duration")],
                          [[on, 0, v] for on, v in zip(ONSETS, (5, 4, 3, 2, 1), strict=True)]),
    "assign": ("long", [step("Assign", ["loss"], ["long"], Target=["gain"], TargetAttr="duration")],
               [[1, 5, 10], [5, 4, 20], [9, 3, 30], [13, 2, 40], [17, 1, 50]]),
    "and": ("both", [step("Factor", ["trial_type", "loss"]), step("And", ["trial_type.go", "trial_type.go"], ["both"])],
            [[1, 2, 1], [9, 2, 1]]),
    "or": ("any", [step("Factor", ["trial_type"]), step("Or", ["trial_type.go", "trial_type.stop"], ["any"])],
           [[on, 2, 1] for on in (1, 5, 9, 13)]),
    "not": ("other", [step("Factor", ["trial_type"]), step("Not", ["trial_type.go"], ["other"])],
            [[5, 2, 1], [13, 2, 1]]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_instructions(case):
    name, steps, expected = CASES[case]
    found = variable(name, *steps)
    assert len(found) == len(expected)
    np.testing.assert_allclose(np.array(found).reshape(-1, 3), np.array(expected, dtype=float).reshape(-1, 3))


def test_what_is_left():
    steps = [step("Factor", ["trial_type"]), step("Delete", ["rt", "gain"]), step("Copy", ["loss"], ["price"])]
    assert variables_after([EVENTS], steps) == ["loss", "trial_type.go", "trial_type.stop", "price"]
    assert transform_events(EVENTS.iloc[:0], [step("Select", ["gain"])]).empty


WRONG = {
    "unknown": ({"Name": "Lag", "Input": ["gain"]}, ParameterError, "'Lag' has no counterpart in daskglm; there are"),
    "near": (step("Scael", ["gain"]), ParameterError, "did you mean 'Scale'?"),
    "key": (step("Scale", ["gain"], Demaen=True), ParameterError, "Scale has 'demaen'"),
    "no input": ({"Name": "Scale"}, ParameterError, "Scale has no Input"),
    "no mapping": ("Scale", ParameterError, "a transformation must be a mapping with a Name"),
    "variable": (step("Scale", ["gian"]), DesignError, "takes 'gian'.*did you mean 'gain'?"),
    "text": (step("Scale", ["trial_type"]), DesignError, "'trial_type' is text"),
    "constant": (step("Scale", ["one"]), DesignError, "all values are the same"),
    "other events": (step("Product", ["gain", "rt"], ["x"]), DesignError, "gain has 5 of them and rt 4"),
    "weights": (
        step("Sum", ["gain", "loss"], ["x"], Weights=[1]),
        ParameterError,
        "a weight for each Input, got 1 for 2",
    ),
    "together": (step("Product", ["gain", "loss"]), ParameterError, "Product needs one Output, got 0"),
    "attribute": (
        step("Replace", ["gain"], Replace={"1": 2}, Attribute="size"),
        ParameterError,
        "onset or duration, but",
    ),
    "attributes": (step("Assign", ["loss"], ["x"], Target=["gain"], InputAttr="size"), ParameterError, "one Target"),
    "new name": (step("Rename", ["gain"]), ParameterError, "Rename needs an Output for each Input, got none"),
    "outputs": (step("Scale", ["gain", "loss"], ["x"]), ParameterError, "an Output for each Input, got 1 for 2"),
    "assign": (step("Assign", ["rt"], ["x"], Target=["gain"]), DesignError, "rt has 4 and gain 5"),
    "no target": (step("Assign", ["rt"], ["x"]), ParameterError, "one Target"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    instruction, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        transform_events(EVENTS.assign(one=1.0), [instruction])
