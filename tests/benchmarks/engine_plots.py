"""Plot the results of the engine's benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from tests.benchmarks.engine_peers import TORCH_PRECISION

EARLYBELL, BERT, OTHER = "#1f77b4", "#8c8c8c", "#ff7f0e"


def draw(results: dict[str, Any], labelled: str, file: Path) -> None:
    """Plot speeds side by side, occupancy by depth, speed by window size, and speed by text length."""
    mpl.use("agg")
    figure, axes = plt.subplots(2, 2, figsize=(13, 9.5), layout="constrained")
    _speeds(axes[0][0], results["tables"][labelled], labelled, results["clock"])
    _occupancy(axes[0][1], results["scaling"]["order"])
    _windows(axes[1][0], results["scaling"]["window"])
    _lengths(axes[1][1], results["scaling"]["length"])
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _speeds(axes: Axes, table: dict[str, Any], corpus: str, clock: str) -> None:
    names = sorted(table, key=lambda name: table[name]["texts_per_second"])
    speeds = [table[name]["texts_per_second"] for name in names]
    spread = [[speed - table[name]["lowest"] for name, speed in zip(names, speeds, strict=True)],
              [table[name]["highest"] - speed for name, speed in zip(names, speeds, strict=True)]]  # fmt: skip
    colours = [EARLYBELL if "earlybell" in name else BERT if "bert_base" in name else OTHER for name in names]
    axes.barh([name.replace("_", " ") for name in names], speeds, xerr=spread, color=colours, ecolor="#444444")
    for bar, (name, speed) in enumerate(zip(names, speeds, strict=True)):
        accuracy = table[name].get("accuracy")
        note = f"{speed:,.0f}" + (f"  (accuracy {accuracy:.3f})" if accuracy is not None else "")
        axes.annotate(
            note, (table[name]["highest"], bar), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7
        )
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 2, max(speeds) * 14)
    axes.tick_params(axis="y", labelsize=8)
    clock_name = clock.partition(",")[0]
    axes.set_xlabel(f"texts/s, {corpus}, including tokenization, {clock_name}\n(bars: lowest and highest round)")


def _occupancy(axes: Axes, order: dict[str, Any]) -> None:
    for name, figures in order.items():
        by_depth = figures["occupancy_by_depth"]
        style = "-" if name.startswith("shrink") else "--"
        shares = [100 * share for share in by_depth.values()]
        axes.plot(list(map(int, by_depth)), shares, style, marker="o", markersize=4,
                  label=f"{name.replace('_', ', order: ')} ({figures['texts_per_second']:,.0f} texts/s)")  # fmt: skip
    axes.set_ylim(0, 105)
    axes.set_xlabel("depth")
    axes.set_ylabel(f"occupied rows of the batch, % ({TORCH_PRECISION})")
    axes.legend(fontsize=8)


def _windows(axes: Axes, window: dict[str, Any]) -> None:
    for name, colour in zip(window, (EARLYBELL, OTHER), strict=True):
        sizes, rows = list(map(int, window[name])), list(window[name].values())
        axes.plot(sizes, [row["texts_per_second"] for row in rows], "-o", color=colour, label=name)
        for size, row in zip(sizes, rows, strict=True):
            axes.annotate(f"{row['p50_ms']:.1f} ms", (size, row["texts_per_second"]), xytext=(0, 6),
                          textcoords="offset points", fontsize=7, ha="center")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("texts per window (labels: median time of a window)")
    axes.set_ylabel("texts/s")
    axes.legend()


def _lengths(axes: Axes, length: dict[str, Any]) -> None:
    for name, colour in zip(length, (EARLYBELL, OTHER), strict=True):
        rows = list(length[name].values())
        axes.plot([row["mean_tokens"] for row in rows], [row["tokens_per_second"] * row["mean_depth"] for row in rows],
                  "-o", color=colour, label=name)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens per text")
    axes.set_ylabel("tokens x layers / s")
    axes.legend()
