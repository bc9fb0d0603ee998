"""How the engine's speed hangs on the window, the length of texts, the number of workers, and the order of work."""

from __future__ import annotations

import asyncio
import copy
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.slots import Slots
from earlybell.inference.batching.backend import Batch, Encoder, Ids, Order, Window, batches, bucket
from earlybell.inference.batching.strategies import refill, shrink
from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.inference.pool.pool import Pool
from earlybell.streams.model import _open
from tests.benchmarks import engine_clock
from tests.benchmarks.engine_texts import Texts

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
    """Speed and occupancy of shrinking and refilled batches by the order of the queue; all else is the same."""
    rows = engine.read(texts)
    window = Window(rows, engine.predict_depths(rows))
    strategies = {f"{name}_{order}": (strategy, order) for name, strategy in (("shrink", shrink), ("refill", refill))
                  for order in ORDERS}  # fmt: skip
    laps: dict[str, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, (strategy, order) in strategies.items():
                began = engine_clock.now()
                strategy(engine.encoder, window, order)
                laps[name].append(engine_clock.now() - began)
        occupied = {name: _occupancy(engine.encoder, window, *strategies[name]) for name in strategies}
    return {
        name: {"texts_per_second": len(texts) / statistics.median(laps[name]), **occupied[name]} for name in strategies
    }


def _occupancy(encoder: Encoder, window: Window, strategy: Any, order: Order) -> dict[str, Any]:
    """How full batches were when each depth was computed, and the mean over all layers run."""
    watched = _Watched(encoder)
    strategy(watched, window, order)
    by_depth = {
        str(depth): float(sum(alive for alive, _ in seen) / sum(room for _, room in seen))
        for depth, seen in sorted(watched.seen.items())
    }
    ran = [one for seen in watched.seen.values() for one in seen]
    return {
        "occupancy_by_depth": by_depth,
        "rows_per_layer_run": sum(alive for alive, _ in ran) / len(ran),
        "layer_runs": len(ran),
    }


class _Watched:
    """An encoder whose batches note how many texts each layer run served."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.config, self.rule = encoder.config, encoder.rule
        self.batch_tokens, self.pads = encoder.batch_tokens, encoder.pads
        self.seen: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def start(self, rows: Sequence[Ids], width: int, prunes: bool = True) -> Batch:
        batch = self._encoder.start(rows, width, prunes)
        room, deepen = len(rows), batch.deepen

        def watched(served: NDArray[np.int64]) -> None:
            self.seen[int(batch.depth[served].min()) + 1].append((len(served), room))
            deepen(served)

        batch.deepen = watched  # type: ignore[method-assign, assignment]
        return batch

    def answer(self, rows: Sequence[Ids]) -> None:
        """None: each layer run is to be seen."""

    def slots(self, width: int) -> Slots | None:
        slots = self._encoder.slots(width)
        if slots is None:
            return None
        watched, deepen = copy.copy(slots), slots.deepen  # the encoder keeps the slots, unwatched

        def noted(group: int, served: NDArray[np.int64], depth: NDArray[np.int64], length: NDArray[np.int64]) -> None:
            self.seen[int(depth.min()) + 1].append((len(served), watched.rows))
            deepen(group, served, depth, length)

        watched.deepen = noted  # type: ignore[method-assign, assignment]
        return watched


def at_every_exit(precision: str, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """(texts, C) of each exit."""
    engine = open_engine("cpu", dial=0.0, precision=precision, threads=engine_clock.THREADS)
    rows = engine.read(texts)
    config = load(SHIPPED).model.config
    found = [np.zeros((len(rows), config.classes), np.float32) for _ in config.depths]
    window = Window(rows, np.full(len(rows), np.nan, np.float32))
    with torch.inference_mode():
        for part in batches(window, "length", engine.encoder.batch_tokens, engine.encoder.pads):
            batch = engine.encoder.start([rows[text] for text in part.texts], part.width)
            every = np.arange(len(part.texts))
            for depth in range(config.layers + 1):
                if depth:
                    batch.deepen(every)
                if depth in config.depths:
                    found[depth - config.depths[0]][part.texts] = batch.probabilities(every).numpy()
    return found
