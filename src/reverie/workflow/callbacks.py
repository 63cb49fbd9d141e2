"""Every callback: ``rv.callbacks``. Write your own as a ``Callback`` with some of its methods."""

from reverie.training.bar import Bar
from reverie.training.callbacks import Callback, Checkpoints, Log, TensorBoard
from reverie.workflow.live import EarlyStop, LivePlot
from reverie.workflow.monitors import Doctor, Monitor, Previews

__all__ = [
    "Bar",
    "Callback",
    "Checkpoints",
    "Doctor",
    "EarlyStop",
    "LivePlot",
    "Log",
    "Monitor",
    "Previews",
    "TensorBoard",
]
