"""A backend of matplotlib: ``plt.show()`` saves the figures into the folder $FIGURES, to be looked at by a test."""

import os

from matplotlib import pyplot
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


class FigureManager(FigureManagerBase):
    """A manager whose ``show`` saves all open figures."""

    @classmethod
    def pyplot_show(cls, *, block=None):
        for number in pyplot.get_fignums():
            pyplot.figure(number).savefig(os.path.join(os.environ["FIGURES"], f"figure-{number}.png"))


class FigureCanvas(FigureCanvasAgg):
    """Agg's."""

    manager_class = FigureManager
