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


def samples(rows: Mapping[str, Sequence[float]], x: str) -> str:
    """Rows of several samples on one axis, a point each, and a bar at their median: which samples lie together is seen at once."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(SIZE[0], 0.8 + 0.5 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (view, values) in enumerate(rows.items()):
            # Spread by the golden ratio: points of equal value lie apart, and are the same in every drawing.
            heights = place + 0.5 * (np.arange(len(values)) * 0.618 % 1 - 0.5)
            style = STYLE.get(view, OTHER)
            alpha = max(0.25, min(0.8, 20 / len(values)))
            axes.scatter(values, heights, s=14, color=style["color"], marker=style["marker"], alpha=alpha, linewidths=0)
            axes.vlines(np.median(values), place - 0.35, place + 0.35, color="#1a1a1a", linewidth=2)
        axes.set_yticks(range(len(rows)), [view.replace("_", "-") for view in rows])
        axes.invert_yaxis()
        axes.set_xlabel(x)
        axes.grid(axis="x", alpha=0.3)
        said = ", ".join(f"{view.replace('_', '-')} {np.median(values):.3g}" for view, values in rows.items())
        return _svg(figure, "samples", f"{x} of each row; medians: {said}")


def gauge(
    value: float, interval: Sequence[float] | None, limit: float, alternative: str, *, end: float = 0.0, at_least: bool = False
) -> str:
    """A number with its interval beside what is allowed (the filled part of the bar), as a small <svg>; the scale goes from 0 to `end` at least."""
    shown = [0.0, value, limit, *(interval or ())]
    low, high = min(shown), max(end, 1.1 * max(shown))
    width, height, edge = 170, 22, 6

    def x(number: float) -> float:
        return edge + (number - low) / ((high - low) or 1.0) * (width - 2 * edge)

    left, right = (x(limit), width) if at_least else (0, x(limit))
    marks = [
        f'<rect x=".5" y="4" width="{width - 1}" height="14" fill="#fff" stroke="#767676"/>',
        f'<rect x="{left:.1f}" y="4" width="{right - left:.1f}" height="14" fill="#b9d8c0"/>',
        f'<path d="M{x(limit):.1f} 1V21" stroke="#1a1a1a" stroke-width="2" stroke-dasharray="3 2"/>',
    ]
    if interval:
        ends = [x(number) for number in interval]
        marks.append(f'<path d="M{ends[0]:.1f} 7V15M{ends[0]:.1f} 11H{ends[1]:.1f}M{ends[1]:.1f} 7V15" stroke="#1a1a1a" stroke-width="2"/>')
    marks.append(f'<circle cx="{x(value):.1f}" cy="11" r="4" fill="#1a1a1a"/>')
    head = f'<svg class="gauge" role="img" aria-label="{escape(alternative)}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return f"{head}{''.join(marks)}</svg>"


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
