"""The demo's picture: loss and accuracy over the iterations. Only this file imports matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


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


def draw(progress: Sequence[Progress], paper: float, path: Path) -> None:
    """Write the picture, with `paper` as the accuracy to compare with; no window, no state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(1, 2)
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
    for axes in (losses, accuracies):
        axes.set_xlabel("iteration of L-BFGS")
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("IndyGRU learns to tell nine speakers apart", x=0.01, ha="left", weight="bold")
    figure.savefig(path, dpi=150)
