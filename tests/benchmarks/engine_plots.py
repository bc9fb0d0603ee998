"""The engine's figures as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS, THEIRS, OTHERS = "#1f77b4", "#8c8c8c", "#ff7f0e"


def draw(found: dict[str, Any], labelled: str, file: Path) -> None:
    """Speeds side by side, occupancy over depth, latency by window, tokens/s by length."""
    mpl.use("agg")
    figure, axes = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained")
    _speeds(axes[0][0], found["tables"][labelled], labelled, found["clock"])
    _occupancy(axes[0][1], found["scaling"]["order"])
    _windows(axes[1][0], found["scaling"]["window"])
    _lengths(axes[1][1], found["scaling"]["length"])
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _speeds(axes: Axes, table: dict[str, Any], kind: str, clock: str) -> None:
    names = sorted(table, key=lambda name: table[name]["texts_per_second"])
    speeds = [table[name]["texts_per_second"] for name in names]
    spread = [[one - table[name]["lowest"] for name, one in zip(names, speeds, strict=True)],
              [table[name]["highest"] - one for name, one in zip(names, speeds, strict=True)]]  # fmt: skip
    colours = [OURS if "earlybell" in name else THEIRS if "bert_base" in name else OTHERS for name in names]
    axes.barh([name.replace("_", " ") for name in names], speeds, xerr=spread, color=colours, ecolor="#444444")
    for place, (name, speed) in enumerate(zip(names, speeds, strict=True)):
        right = table[name].get("accuracy")
        note = f"{speed:,.0f}" + (f"  (accuracy {right:.3f})" if right is not None else "")
        axes.annotate(
            note, (table[name]["highest"], place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 2, max(speeds) * 14)
    axes.tick_params(axis="y", labelsize=8)
    by = clock.partition(",")[0]
    axes.set_xlabel(f"texts/s, {kind}, tokenisation counted, {by}\n(bars: lowest and highest round)")


def _occupancy(axes: Axes, order: dict[str, Any]) -> None:
    for name, figures in order.items():
        by_depth = figures["occupancy_by_depth"]
        style = "-" if name.startswith("shrink") else "--"
        axes.plot(list(map(int, by_depth)), [100 * one for one in by_depth.values()], style, marker="o", markersize=4,
                  label=f"{name.replace('_', ', order: ')} ({figures['texts_per_second']:,.0f} texts/s)")  # fmt: skip
    axes.set_ylim(0, 105)
    axes.set_xlabel("depth that is computed")
    axes.set_ylabel("rows at work, % of the batch's room (bfloat16)")
    axes.legend(fontsize=8)


def _windows(axes: Axes, window: dict[str, Any]) -> None:
    for name, colour in zip(window, (OURS, OTHERS), strict=True):
        sizes = list(map(int, window[name]))
        axes.plot(sizes, [one["texts_per_second"] for one in window[name].values()], "-o", color=colour, label=name)
        for size, one in zip(sizes, window[name].values(), strict=True):
            axes.annotate(f"{one['p50_ms']:.1f} ms", (size, one["texts_per_second"]), xytext=(0, 6),
                          textcoords="offset points", fontsize=7, ha="center")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("texts in the window (labels: median time of a window)")
    axes.set_ylabel("texts/s")
    axes.legend()


def _lengths(axes: Axes, length: dict[str, Any]) -> None:
    for name, colour in zip(length, (OURS, OTHERS), strict=True):
        rows = list(length[name].values())
        axes.plot([one["mean_tokens"] for one in rows], [one["tokens_per_second"] * one["mean_depth"] for one in rows],
                  "-o", color=colour, label=name)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of a text")
    axes.set_ylabel("tokens x layers / s")
    axes.legend()
