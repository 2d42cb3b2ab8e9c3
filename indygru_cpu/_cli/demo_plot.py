"""The demo's plot: losses, accuracy, and gates and states of one utterance. Only this module imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indygru_cpu._typing import Array


def check_format(path: Path) -> None:
    """Raise ValueError unless matplotlib supports the suffix of the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"expected a name ending in .png (or .{', .'.join(sorted(set(known) - {'png'}))})")


def draw(
    losses: Sequence[Sequence[float]],
    accuracy_by_frame: Array,
    paper_accuracy: float,
    signals: Mapping[str, Array],
    path: Path,
) -> None:
    """Write the plot to a file, without a window and without the global state of pyplot.

    Parameters
    ----------
    losses : sequence of sequences of float
        Loss of each network by epoch.
    accuracy_by_frame : array
        Test accuracy after 1, 2, ... frames.
    paper_accuracy : float
        Test accuracy of the paper, for comparison.
    signals : mapping of str to array
        Signals of the layer over one utterance by title, each (T, inputs or units). The last one is the state.
    path : Path
        The file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    subfigures: Any = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    top, bottom = subfigures
    top.suptitle("IndyGRU learns to distinguish nine speakers", x=0.01, ha="left", weight="bold")
    left, right = top.subplots(1, 2)
    _draw_losses(left, losses)
    _draw_accuracy(right, accuracy_by_frame, paper_accuracy)
    bottom.suptitle("Signals of the layer during one utterance", x=0.01, ha="left", weight="bold")
    _draw_signals(bottom, signals)
    figure.savefig(path, dpi=150)


def _draw_losses(axes: Any, losses: Sequence[Sequence[float]]) -> None:
    for curve in losses:
        axes.semilogy(range(1, len(curve) + 1), curve, linewidth=1)
    _format_axes(axes, "epoch", f"Loss of {len(losses)} networks: cross-entropy and penalty")


def _draw_accuracy(axes: Any, accuracy_by_frame: Array, paper_accuracy: float) -> None:
    from matplotlib.ticker import PercentFormatter

    n_frames = range(1, len(accuracy_by_frame) + 1)
    axes.plot(n_frames, accuracy_by_frame, color="tab:orange", label="test utterances")
    label = f"paper of 1999, all frames: {paper_accuracy:.1%}"
    axes.axhline(paper_accuracy, color="0.5", linestyle="--", linewidth=1, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower right", frameon=False)
    _format_axes(axes, "frames", f"Test accuracy by number of frames: finally {accuracy_by_frame[-1]:.1%}")


def _format_axes(axes: Any, x: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_title(title, loc="left")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_signals(figure: Any, signals: Mapping[str, Array]) -> None:
    """Draw one image per signal, with the units sorted by their final state."""
    *_, states = signals.values()
    order = states[-1].argsort()
    for axes, (name, array) in zip(figure.subplots(1, len(signals)), signals.items(), strict=True):
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
