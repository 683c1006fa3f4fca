"""Pictures are drawn without a screen, and closed."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")
