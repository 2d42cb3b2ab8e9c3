"""The demo's picture: how training went, and gates and states of one utterance. Only this file imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Progress(NamedTuple):
    """Where the model stands after an iteration: the loss, and the share of right answers."""

    loss: float
    train: float
    test: float


def check_format(path: Path) -> None:
    """ValueError unless matplotlib can write such a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"expected a name ending in .png (or .{', .'.join(sorted(set(known) - {'png'}))})")


def draw(progress: Sequence[Progress], paper: float, inside: Mapping[str, Array], path: Path) -> None:
    """Write the picture, with `paper` as the accuracy to compare with; no window, no state of pyplot.

    Above, how training went; below, one utterance: arrays (T, inputs or units) under what they are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    above, below = parts
    above.suptitle("IndyGRU learns to tell nine speakers apart", x=0.01, ha="left", weight="bold")
    _draw_training(above.subplots(1, 2), progress, paper)
    below.suptitle("Inside the layer while one of them speaks", x=0.01, ha="left", weight="bold")
    _draw_utterance(below, inside)
    figure.savefig(path, dpi=150)


def _draw_training(axes: Any, progress: Sequence[Progress], paper: float) -> None:
    from matplotlib.ticker import PercentFormatter

    losses, accuracies = axes
    iterations = range(1, len(progress) + 1)
    losses.semilogy(iterations, [each.loss for each in progress], color="tab:blue")
    losses.set_title("Loss: cross-entropy and penalty", loc="left")
    train, test = [each.train for each in progress], [each.test for each in progress]
    accuracies.plot(iterations, train, color="tab:blue", label="training utterances")
    accuracies.plot(iterations, test, color="tab:orange", label="test utterances")
    label = f"test, paper of 1999: {paper:.1%}"
    accuracies.axhline(paper, color="0.5", linestyle="--", linewidth=1, label=label)
    accuracies.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    accuracies.set_title(f"Accuracy: {progress[-1].test:.1%} of the test utterances", loc="left")
    accuracies.legend(loc="lower right", frameon=False)
    for each in (losses, accuracies):
        each.set_xlabel("iteration of L-BFGS")
        each.grid(color="0.9")
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)


def _draw_utterance(figure: Any, inside: Mapping[str, Array]) -> None:
    """Units from top to bottom, in the order of their last state, so that like stands beside like."""
    *_, states = inside.values()
    order = states[-1].argsort()
    for axes, (name, array) in zip(figure.subplots(1, len(inside)), inside.items(), strict=True):
        is_gate = "gate" in name
        limit = max(1.0, float(abs(array).max()))
        colours = (
            {"cmap": "viridis", "vmin": 0, "vmax": 1} if is_gate else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        )
        rows = array[:, order] if array.shape == states.shape else array
        image = axes.imshow(rows.T, aspect="auto", interpolation="nearest", **colours)
        figure.colorbar(image, ax=axes, location="bottom", shrink=0.9)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("frame")
        axes.set_yticks([])
