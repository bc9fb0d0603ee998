"""Plots of measured figures. Must not know how they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_EXITS = {
    "cwb": ("CWB", "tab:blue", "-"),
    "entropy": ("entropy (FastBERT)", "tab:orange", "-"),
    "pabee": ("patience (PABEE)", "tab:green", "--"),
    "fixed": ("fixed depth", "tab:gray", ":"),
}
_SPEEDS = {
    "speed_up_over_set": ("analytical, over the set", "tab:blue", "o-"),
    "speed_up_at_median": ("analytical, at its median length", "tab:cyan", "s--"),
    "speed_up_measured": ("measured (against fused attention)", "tab:red", "D-"),
}


def plot_comparison(figures: Mapping[str, Any], file: Path, title: str) -> None:
    """Plot exit curves beside ACC's sweep, from the figures of `comparisons.compare`, to a PNG, SVG or PDF."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    curves: Mapping[str, Sequence[tuple[float, float]]] = figures["exit_curves"]
    for name, (label, colour, style) in _EXITS.items():
        depth, accuracy = zip(*_outline(curves[name]), strict=True)
        marker = "." if len(depth) < 30 else None
        left.plot(depth, [100 * value for value in accuracy], style, color=colour, label=label, marker=marker)
    best = 100 * max(accuracy for curve in curves.values() for _, accuracy in curve)
    # The first depths may be far below the rest and would flatten the part worth seeing.
    left.set_ylim(max(left.get_ylim()[0], best - 15), best + 0.75)
    left.set(xlabel="mean exit depth", ylabel="accuracy, %", title="Exits")
    left.legend(loc="lower right")
    points = figures["pruning"]
    for name, (label, colour, style) in _SPEEDS.items():
        speeds = [point[name] for point in points]
        right.plot(speeds, [100 * point["accuracy"] for point in points], style, color=colour, label=label)
    for point in points:
        right.annotate(f"K {point['speed_up']:g}", (point["speed_up_at_median"], 100 * point["accuracy"]),
                       textcoords="offset points", xytext=(5, 5), fontsize=8, color="tab:cyan")  # fmt: skip
    right.axvline(1.0, color="black", linewidth=0.8, alpha=0.5)
    right.axhline(100 * points[0]["accuracy"] - 0.75, color="black", linewidth=0.8, linestyle=":", alpha=0.6,
                  label="0.75 points lost")  # fmt: skip
    right.set(xlabel="speed-up at full depth", ylabel="accuracy, %", title="Token pruning")
    right.legend(loc="upper right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def plot_dial(curve: Sequence[Mapping[str, Any]], file: Path, title: str) -> None:
    """Plot accuracy against cost (mean depth as a share of full depth) to a PNG, SVG or PDF."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    costs = [point["mean_depth"] / point["depth_limit"] for point in curve]
    axes.plot(costs, [100 * point["accuracy"] for point in curve], marker="o")
    for point, cost in zip(curve, costs, strict=True):
        if round(point["dial"] * 100) % 25 == 0:
            axes.annotate(f"dial {point['dial']:.2f}", (cost, 100 * point["accuracy"]), textcoords="offset points",
                          xytext=(4, -10), fontsize=8)  # fmt: skip
    axes.set(xlabel="mean exit depth / full depth", ylabel="accuracy, %", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(file)
    pyplot.close(figure)


def _outline(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the curve in ascending order with one point per depth: settings that run equally deep are one."""
    return sorted(dict(curve).items())


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot
