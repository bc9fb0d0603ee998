"""How the engine's speed depends on the window, the length of texts, the number of workers, and the order of work."""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.backends.slots import Slots
from earlybell.inference.batching.backend import Backend, Window
from earlybell.inference.batching.planning import Order, batches, bucket
from earlybell.inference.batching.strategies import STRATEGIES, Strategy
from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.pool.pool import Pool
from earlybell.streams.model import _open
from tests.benchmarks import engine_clock
from tests.benchmarks.engine_texts import Texts
from tests.benchmarks.every_exit import every_exit

WINDOWS = (1, 8, 32, 128, 512, 2_048)
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
ROUNDS = 5
TORCH_PRECISION = "bfloat16"
ORDERS: tuple[Order, ...] = ("arrival", "length", "predicted")
#: A batch as most people cut it, for the padding that they compute.
BATCH = 32


def measure(kinds: dict[str, Texts]) -> dict[str, Any]:
    """All of them, by name."""
    texts = next(iter(kinds.values())).texts
    quick, torch_engine = (
        open_engine("cpu", precision=one, threads=engine_clock.THREADS) for one in ("auto", TORCH_PRECISION)
    )
    return {
        "window": {"earlybell": windows(quick, texts), TORCH_PRECISION: windows(torch_engine, texts[:1_024])},
        "length": lengths({"earlybell": quick, TORCH_PRECISION: torch_engine}, next(reversed(kinds.values())).texts),
        "workers": workers(texts),
        "padding_share": {kind: padding(quick, one.texts) for kind, one in kinds.items()},
        "exit_depths": {kind: depths(quick, one.texts) for kind, one in kinds.items()},
        "order": orders(torch_engine, texts[:1_536]),
    }


def windows(engine: Engine, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Texts/s and latency by the size of the window."""
    found = {}
    for size in WINDOWS:
        used = texts[: max(min(len(texts), 64 * size), size)]
        laps = []
        for start in range(0, len(used) - size + 1, size):
            began = engine_clock.now()
            engine.score(used[start : start + size])
            laps.append(engine_clock.now() - began)
        if laps:
            middle = statistics.median(laps)
            found[str(size)] = {"texts_per_second": size / middle, "p50_ms": 1e3 * middle}
    return found


def lengths(engines: dict[str, Engine], long: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Tokens/s by the length of texts: pieces of long ones."""
    words = [text.split() for text in long if len(text.split()) > 40] or [" ".join(long).split()]
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in engines}
    for length in LENGTHS:
        count = max(16, 4_096 // length)
        pieces = [" ".join((one * (1 + length // len(one)))[:length]) for one in (words * count)[:count]]
        laps: dict[str, list[float]] = {name: [] for name in engines}
        tokens = 0
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                began = engine_clock.now()
                answers = engine.score(pieces)
                laps[name].append(engine_clock.now() - began)
                tokens = int(answers.tokens.sum())
        for name, seconds in laps.items():
            middle = statistics.median(seconds)
            found[name][str(length)] = {
                "mean_tokens": tokens / count,
                "tokens_per_second": tokens / middle,
                "texts_per_second": count / middle,
                "mean_depth": float(answers.exit_depth.mean()),
            }
    return found


def workers(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Texts/s of the pool: one worker with all cores, or a worker a core."""
    return {
        f"{count}_workers_{threads}_threads": {"texts_per_second": asyncio.run(_pooled(texts, count, threads))}
        for count, threads in ((1, 1), (1, 2), (2, 1))
    }


async def _pooled(texts: Sequence[str], count: int, threads: int) -> float:
    make = functools.partial(_open, checkpoint=None, dial=None, precision="auto", threads=threads)
    parts = [list(texts[start : start + 512]) for start in range(0, len(texts), 512)] * 3
    async with Pool(make, ["cpu"] * count) as pool:
        await asyncio.gather(*(pool.score(part) for part in parts[:4]))
        laps = []
        for _ in range(3):
            began = time.perf_counter()
            await asyncio.gather(*(pool.score(part) for part in parts))
            laps.append(time.perf_counter() - began)
    return sum(map(len, parts)) / statistics.median(laps)


def padding(engine: Engine, texts: Sequence[str]) -> dict[str, float]:
    """The share of computed tokens that are padding, by how texts are put into batches."""
    tokens = np.array([len(row) for row in engine.read(texts)])
    ordered = np.sort(tokens)

    def share(lengths: NDArray[np.int64]) -> float:
        cut = [lengths[start : start + BATCH] for start in range(0, len(lengths), BATCH)]
        return float(1 - tokens.sum() / sum(len(one) * one.max() for one in cut))

    return {
        "arrival": share(tokens),
        "length": share(ordered),
        "bucket": float(1 - tokens.sum() / sum(bucket(int(one)) for one in tokens)),
        "packed": 0.0,
    }


def depths(engine: Engine, texts: Sequence[str]) -> dict[str, float]:
    """The share of texts that leave at each depth, and how well the prediction orders them."""
    answers = engine.score(texts)
    counts = np.bincount(answers.exit_depth, minlength=engine.description.depth_limit + 1) / len(texts)
    found = {str(depth): float(share) for depth, share in enumerate(counts)}
    if np.isfinite(answers.predicted_depth).all() and len(set(answers.exit_depth.tolist())) > 1:
        found["rank_correlation_with_prediction"] = float(
            np.corrcoef(_ranks(answers.predicted_depth), _ranks(answers.exit_depth.astype(np.float32)))[0, 1]
        )
    return found


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks from 0, ties shared."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared: NDArray[np.float64] = (ends - (counts + 1) / 2)[inverse]
    return shared


def orders(engine: Engine, texts: Sequence[str]) -> dict[str, Any]:
    """Return speed and occupancy of shrinking and refilled batches by the order of the queue; all else is the same."""
    window = engine.window(engine.read(texts))
    strategies = {f"{name}_{order}": replace(STRATEGIES[name], order=order) for name in ("shrink", "refill")
                  for order in ORDERS}  # fmt: skip
    laps: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, strategy in strategies.items():
            began = engine_clock.now()
            strategy.run(engine.backend, window)
            laps[name].append(engine_clock.now() - began)
    return {
        name: {
            "texts_per_second": len(texts) / statistics.median(laps[name]),
            **_occupancy(engine.backend, window, strategy),
        }
        for name, strategy in strategies.items()
    }


def _occupancy(backend: Backend, window: Window, strategy: Strategy) -> dict[str, Any]:
    """Return how full batches were when each depth was computed, and the mean over all layers run."""
    runs = _runs_in_slots(backend, window, strategy) if strategy.continuous else _runs(backend, window, strategy)
    every_run = [run for of_depth in runs.values() for run in of_depth]
    return {
        "occupancy_by_depth": {
            str(depth): sum(alive for alive, _ in of_depth) / sum(size for _, size in of_depth)
            for depth, of_depth in sorted(runs.items())
        },
        "rows_per_layer_run": sum(alive for alive, _ in every_run) / len(every_run),
        "layer_runs": len(every_run),
    }


def _runs(backend: Backend, window: Window, strategy: Strategy) -> dict[int, list[tuple[int, int]]]:
    """Return, by depth, the texts that each run of a layer served, and the size of their batch."""
    exit_depth = strategy.run(backend, window).exit_depth
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for batch in batches(window, strategy.order, backend.batch_tokens, backend.pads):
        depths = exit_depth[batch.rows]
        for depth in range(1, int(depths.max()) + 1):
            runs[depth].append((int((depths >= depth).sum()), len(depths)))
    return runs


def _runs_in_slots(backend: Backend, window: Window, strategy: Strategy) -> dict[int, list[tuple[int, int]]]:
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    deepen = Slots.deepen

    def watched(
        self: Slots, group: int, slots: NDArray[np.int64], depth: NDArray[np.int64], length: NDArray[np.int64]
    ) -> None:
        runs[int(depth.min()) + 1].append((len(slots), self.rows))
        deepen(self, group, slots, depth, length)

    with mock.patch.object(Slots, "deepen", watched):
        strategy.run(backend, window)
    return runs


def at_every_exit(precision: str, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the probabilities of each exit: (texts, C) each."""
    engine = open_engine("cpu", dial=0.0, precision=precision, threads=engine_clock.THREADS)
    probabilities, _ = every_exit(engine.backend, engine.read(texts))
    return list(probabilities.swapaxes(0, 1))
