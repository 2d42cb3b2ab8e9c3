"""The demo's picture: losses, accuracy, and gates and states of one utterance. Only this file imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indygru_cpu._typing import Array


def check_format(path: Path) -> None:
    """ValueError unless matplotlib can write such a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"expected a name ending in .png (or .{', .'.join(sorted(set(known) - {'png'}))})")


def draw(
    losses: Sequence[Sequence[float]], heard: Array, paper: float, inside: Mapping[str, Array], path: Path
) -> None:
    """Write the picture; no window, no state of pyplot.

    Above, the loss of each network by epochs, and test accuracy by frames heard, beside that of the `paper`; below, one
    utterance: arrays (T, inputs or units) under what they are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    above, below = parts
    above.suptitle("IndyGRU learns to tell nine speakers apart", x=0.01, ha="left", weight="bold")
    left, right = above.subplots(1, 2)
    _draw_losses(left, losses)
    _draw_accuracy(right, heard, paper)
    below.suptitle("Inside the layer while one of them speaks", x=0.01, ha="left", weight="bold")
    _draw_utterance(below, inside)
    figure.savefig(path, dpi=150)


def _draw_losses(axes: Any, losses: Sequence[Sequence[float]]) -> None:
    for each in losses:
        axes.semilogy(range(1, len(each) + 1), each, linewidth=1)
    _finish(axes, "epoch", f"Loss of {len(losses)} networks: cross-entropy and penalty")


def _draw_accuracy(axes: Any, heard: Array, paper: float) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.plot(range(1, len(heard) + 1), heard, color="tab:orange", label="test utterances")
    axes.axhline(paper, color="0.5", linestyle="--", linewidth=1, label=f"paper of 1999, all frames: {paper:.1%}")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower right", frameon=False)
    _finish(axes, "frames heard", f"Accuracy while they speak: {heard[-1]:.1%} in the end")


def _finish(axes: Any, x: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_title(title, loc="left")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


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
