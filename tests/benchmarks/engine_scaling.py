"""How the engine's speed depends on the window size, text length, number of workers and order of texts."""

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
from tests.benchmarks import engine_clock
from tests.benchmarks.engine_peers import TORCH_PRECISION
from tests.benchmarks.engine_texts import Corpus
from tests.benchmarks.every_exit import every_exit

WINDOWS = (1, 8, 32, 128, 512, 2_048)
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
ROUNDS = 5
ORDERS: tuple[Order, ...] = ("arrival", "length", "predicted")
#: A common batch size, for the share of padding without buckets.
BATCH = 32


def measure(corpora: dict[str, Corpus]) -> dict[str, Any]:
    """Return a table for each thing that the speed depends on."""
    texts = next(iter(corpora.values())).texts
    engine, torch_engine = (
        open_engine("cpu", precision=precision, threads=engine_clock.THREADS) for precision in ("auto", TORCH_PRECISION)
    )
    return {
        "window": {"earlybell": windows(engine, texts), TORCH_PRECISION: windows(torch_engine, texts[:1_024])},
        "length": lengths({"earlybell": engine, TORCH_PRECISION: torch_engine}, next(reversed(corpora.values())).texts),
        "workers": workers(texts),
        "padding_share": {name: padding(engine, corpus.texts) for name, corpus in corpora.items()},
        "exit_depths": {name: depths(engine, corpus.texts) for name, corpus in corpora.items()},
        "order": orders(torch_engine, texts[:1_536]),
    }


def windows(engine: Engine, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measure texts/s and the p50 latency in ms by window size."""
    figures = {}
    for size in WINDOWS:
        used = texts[: max(min(len(texts), 64 * size), size)]
        laps = []
        for start in range(0, len(used) - size + 1, size):
            began = engine_clock.now()
            engine.score(used[start : start + size])
            laps.append(engine_clock.now() - began)
        if laps:
            median = statistics.median(laps)
            figures[str(size)] = {"texts_per_second": size / median, "p50_ms": 1e3 * median}
    return figures


def lengths(engines: dict[str, Engine], long_texts: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Measure tokens/s and texts/s by text length, on texts cut from long ones."""
    word_lists = [text.split() for text in long_texts if len(text.split()) > 40] or [" ".join(long_texts).split()]
    figures: dict[str, dict[str, dict[str, float]]] = {name: {} for name in engines}
    for length in LENGTHS:
        count = max(16, 4_096 // length)
        texts = [" ".join((words * (1 + length // len(words)))[:length]) for words in (word_lists * count)[:count]]
        laps: dict[str, list[float]] = {name: [] for name in engines}
        tokens = 0
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                began = engine_clock.now()
                answers = engine.score(texts)
                laps[name].append(engine_clock.now() - began)
                tokens = int(answers.tokens.sum())
        for name, seconds in laps.items():
            median = statistics.median(seconds)
            figures[name][str(length)] = {
                "mean_tokens": tokens / count,
                "tokens_per_second": tokens / median,
                "texts_per_second": count / median,
                "mean_depth": float(answers.exit_depth.mean()),
            }
    return figures


def workers(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measure the pool's texts/s with one worker of one or two threads, and with two workers of one thread."""
    return {
        f"{count}_workers_{threads}_threads": {"texts_per_second": asyncio.run(_pooled(texts, count, threads))}
        for count, threads in ((1, 1), (1, 2), (2, 1))
    }


async def _pooled(texts: Sequence[str], count: int, threads: int) -> float:
    open_worker = functools.partial(open_engine, threads=threads)
    windows = [list(texts[start : start + 512]) for start in range(0, len(texts), 512)] * 3
    async with Pool(open_worker, ["cpu"] * count) as pool:
        await asyncio.gather(*(pool.score(window) for window in windows[:4]))
        laps = []
        for _ in range(3):
            began = time.perf_counter()
            await asyncio.gather(*(pool.score(window) for window in windows))
            laps.append(time.perf_counter() - began)
    return sum(map(len, windows)) / statistics.median(laps)


def padding(engine: Engine, texts: Sequence[str]) -> dict[str, float]:
    """Return the share of computed tokens that are padding, by how texts are batched."""
    tokens = engine.read(texts).lengths

    def share(lengths: NDArray[np.int32]) -> float:
        chunks = [lengths[start : start + BATCH] for start in range(0, len(lengths), BATCH)]
        return float(1 - tokens.sum() / sum(len(chunk) * chunk.max() for chunk in chunks))

    return {
        "arrival": share(tokens),
        "length": share(np.sort(tokens)),
        "bucket": float(1 - tokens.sum() / sum(bucket(int(length)) for length in tokens)),
        "packed": 0.0,
    }


def depths(engine: Engine, texts: Sequence[str]) -> dict[str, float]:
    """Return the share of texts that exit at each depth, and the rank correlation of predicted and exit depth."""
    answers = engine.score(texts)
    shares = np.bincount(answers.exit_depth, minlength=engine.description.depth_limit + 1) / len(texts)
    figures = {str(depth): float(share) for depth, share in enumerate(shares)}
    if np.isfinite(answers.predicted_depth).all() and len(set(answers.exit_depth.tolist())) > 1:
        figures["rank_correlation_with_prediction"] = float(
            np.corrcoef(_ranks(answers.predicted_depth), _ranks(answers.exit_depth.astype(np.float32)))[0, 1]
        )
    return figures


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ranks from 0; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared: NDArray[np.float64] = (ends - (counts + 1) / 2)[inverse]
    return shared


def orders(engine: Engine, texts: Sequence[str]) -> dict[str, Any]:
    """Measure texts/s and occupancy of ``shrink`` and ``refill`` by the order of the texts."""
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
    """Return the occupied share of batches at each depth, and the mean rows per layer run."""
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
    """Return, by depth, the occupied rows of each layer run and the size of its batch."""
    exit_depth = strategy.run(backend, window).exit_depth
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for batch in batches(window, strategy.order, backend.batch_tokens, backend.pads):
        depths = exit_depth[batch.rows]
        for depth in range(1, int(depths.max()) + 1):
            runs[depth].append((int((depths >= depth).sum()), len(depths)))
    return runs


def _runs_in_slots(backend: Backend, window: Window, strategy: Strategy) -> dict[int, list[tuple[int, int]]]:
    """As `_runs`, for continuous batching."""
    runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    deepen = Slots.deepen

    def counted(
        self: Slots, group: int, slots: NDArray[np.int64], depth: NDArray[np.int64], length: NDArray[np.int64]
    ) -> None:
        runs[int(depth.min()) + 1].append((len(slots), self.rows))
        deepen(self, group, slots, depth, length)

    with mock.patch.object(Slots, "deepen", counted):
        strategy.run(backend, window)
    return runs


def at_every_exit(precision: str, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the probabilities of each exit: (texts, C) each."""
    engine = open_engine("cpu", dial=0.0, precision=precision, threads=engine_clock.THREADS)
    probabilities, _ = every_exit(engine.backend, engine.read(texts))
    return list(probabilities.swapaxes(0, 1))
