"""Figures of a report as SVG text: no display, no file, and the same bytes for the same numbers."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Colour and dash or marker both tell views apart (Okabe and Ito's palette, dark enough for white paper).
STYLE: dict[str, dict[str, Any]] = {
    "before": {"color": "#0072b2", "linestyle": "--", "marker": "o"},
    "after": {"color": "#d55e00", "linestyle": "-", "marker": "s"},
    "never_seen": {"color": "#009e73", "linestyle": ":", "marker": "^"},
}
OTHER: dict[str, Any] = {"color": "#555555", "linestyle": "-.", "marker": "D"}

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
SIZE = (4.7, 3.1)  # inches: at its own size it fits a phone, so the letters stay readable there


def trade_off(curve: Sequence[Mapping[str, Any]]) -> str:
    """Mean probability of a token of the forget and of the retain batches, over the steps of training."""
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _axes("step", "p of a token")
        for key, label, style in (("p_forget", "forget", STYLE["after"]), ("p_retain", "retain", STYLE["before"])):
            points = [(point["step"], point[key]) for point in curve if point.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, color=style["color"], linestyle=style["linestyle"])
        axes.set_ylim(0, 1.02)
        axes.legend(frameon=False)
        return _svg(figure, "trade-off", "Probability of a token over training steps, forget and retain batches")


def histograms(rows: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """Min-K values of forget rows over those of holdout rows, a panel for each view; the wider they lie apart, the better a row is told."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(SIZE[0], 0.6 + 1.25 * len(rows)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(rows), 1, sharex=True, squeeze=True))
        edges = np.histogram_bin_edges(np.concatenate([values for pair in rows.values() for values in pair]), bins=24)
        for panel, (view, (forget, holdout)) in zip(panels, rows.items(), strict=True):
            # Shares and not counts: the sets differ in size.
            panel.hist(forget, edges, weights=np.full(len(forget), 1 / len(forget)), color="#d55e00", alpha=0.65, label="forget")
            share = np.full(len(holdout), 1 / len(holdout))
            panel.hist(holdout, edges, weights=share, histtype="step", color="#003b5c", linewidth=1.6, label="holdout")
            panel.set_title(view.replace("_", "-"), loc="left", fontsize=10)
            panel.set_ylabel("rows")
            panel.set_yticks([])
        panels[0].legend(frameon=False, fontsize=9)
        panels[-1].set_xlabel("mean of the lowest log-probabilities (nats)")
        return _svg(figure, "min-k", "Histograms of Min-K values, forget rows against holdout rows, for each view")


def lens(layers: Mapping[str, Sequence[float]]) -> str:
    """Share of answer tokens that the hidden state of each layer (the first is 1) puts among its ten best."""
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _axes("layer", "recall in the top 10")
        for view, values in layers.items():
            axes.plot(range(1, len(values) + 1), values, label=view.replace("_", "-"), markersize=4, **STYLE.get(view, OTHER))
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        return _svg(figure, "lens", "Recall of the answer's tokens by layer, for each view")


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _svg(figure: Figure, name: str, alternative: str) -> str:
    """The figure as an <svg> element with a text for those who cannot see it; its ids begin with `name`, for several stand on a page."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alternative)}" ', 1)
