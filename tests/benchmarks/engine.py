"""The engine against its peers on one machine: same texts, turn by turn, medians with their spread.

Tokenisation is counted everywhere. Slow peers score a part of the texts in each round (whole batches of the sorted
set, evenly spaced, for those that sort), so that every round has all of them within a minute of each other.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from earlybell.inference.engine import open_engine
from earlybell.inference.kernels import build
from earlybell.inference.model.checkpoint import SHIPPED, describe, load
from earlybell.inference.predictions import Predictions
from tests.benchmarks import engine_clock, engine_plots, engine_scaling, fastbert
from tests.benchmarks.engine_peers import Peer, by_length, peers
from tests.benchmarks.engine_texts import Texts, collect

ROUNDS = int(os.environ.get("EARLYBELL_BENCH_ROUNDS", "5"))
WINDOW, LATENCY_WINDOW = 512, 64
RESULTS = Path(__file__).parent / "results"
NEEDS_SERVERS = False
CLOCKS = {
    "wall": "wall clock, all cores",
    "cpu": "processor time, one thread each: the machine was busy, so texts/s are of one core",
}
#: Whose memory and time to the first answer are measured, each in a process of its own.
ALONE = ("bert_base_batch1", "bert_base_int8", "fastbert_bfloat16", "earlybell_bfloat16_presort", "earlybell")
LONG = (
    "bert_base_batch1",
    "bert_base_batch32_bfloat16",
    "bert_base_int8",
    "earlybell_bfloat16_presort",
    "earlybell_int8_padded",
    "earlybell",
)


def measure(servers: object = None) -> dict[str, Any]:
    """All tables; the ratios under plain names."""
    engine_clock.set_threads()
    kinds = collect()
    labelled = next(iter(kinds))
    made = {name: make() for name, make in peers().items()}
    found: dict[str, Any] = {"shipped": _shipped(), "rounds": ROUNDS, "clock": CLOCKS[engine_clock.CLOCK]}
    tables = {labelled: side_by_side(made, kinds[labelled])}
    for kind, texts in kinds.items():
        if kind != labelled:
            tables[kind] = side_by_side(
                {name: made[name] for name in LONG}, texts, scale=16 if kind == "articles" else 1
            )
    found["tables"] = tables
    found["fastbert"] = fastbert.describe()
    say("precision")
    found["precision"] = {name: agreement(kinds[labelled], name) for name in ("bfloat16", "int8")}
    found["limit"] = limit(kinds[labelled], tables[labelled]["earlybell"]["texts_per_second"])
    say("scaling")
    found["scaling"] = engine_scaling.measure(kinds)
    say("memory")
    found["memory"] = {name: alone(name) for name in ALONE}
    found["ratios"] = ratios(tables[labelled])
    RESULTS.mkdir(exist_ok=True)
    engine_plots.draw(found, labelled, RESULTS / "engine.png")
    return found


def side_by_side(made: dict[str, Peer], kind: Texts, scale: int = 1) -> dict[str, dict[str, Any]]:
    """Each peer's texts/s, tokens/s, window latencies, mean depth and accuracy, by name."""
    speeds: dict[str, list[float]] = {name: [] for name in made}
    windows: dict[str, list[float]] = {name: [] for name in made}
    samples = {name: sample(peer, kind.texts, scale) for name, peer in made.items()}
    for name, peer in made.items():
        peer.score(samples[name][:LATENCY_WINDOW:4])
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        for name, peer in made.items():
            texts = samples[name]
            began = engine_clock.now()
            for start in range(0, len(texts), WINDOW):
                peer.score(texts[start : start + WINDOW])
            speeds[name].append(len(texts) / (engine_clock.now() - began))
            for start in range(0, min(len(texts), 8 * LATENCY_WINDOW), LATENCY_WINDOW):
                began = engine_clock.now()
                peer.score(texts[start : start + LATENCY_WINDOW])
                windows[name].append(engine_clock.now() - began)
    reader = load(SHIPPED).reader
    table = {}
    for name, peer in made.items():
        tokens = float(np.mean([len(row) for row in reader.read(samples[name])]))
        median = statistics.median(speeds[name])
        row = {
            "texts_per_second": median,
            "lowest": min(speeds[name]),
            "highest": max(speeds[name]),
            "tokens_per_second": median * tokens,
            "texts_a_round": len(samples[name]),
            "window_p50_ms": 1e3 * float(np.percentile(windows[name], 50)),
            "window_p99_ms": 1e3 * float(np.percentile(windows[name], 99)),
        }
        if not name.startswith("bert_base"):
            row |= quality(peer, kind)
        table[name] = row
    return table


def say(what: str) -> None:
    """A sign of life: all of it takes a quarter of an hour."""
    print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def sample(peer: Peer, texts: Sequence[str], scale: int) -> list[str]:
    """The texts of a round."""
    share = max(2, peer.share // scale)
    if "batch32" in peer.name or peer.name in ("bert_base_int8",):
        return by_length(texts, share)
    # Every k-th text, so that a part is like the whole.
    return list(texts)[:: max(1, len(texts) // share)][:share]


def quality(peer: Peer, kind: Texts) -> dict[str, float]:
    """Mean depth, and accuracy where there are labels, on all texts."""
    answers = peer.score(kind.texts)
    if answers is None:
        return {}
    found = {"mean_depth": float(answers.exit_depth.mean())}
    if kind.labels:
        found["accuracy"] = accuracy(answers, kind.labels)
    return found


def accuracy(answers: Predictions, labels: Sequence[str]) -> float:
    """Share of labels that were found."""
    names = load(SHIPPED).model.config.labels
    said = [names[index] for index in answers.probabilities.argmax(1)]
    right: int = sum(one == other for one, other in zip(said, labels, strict=True))
    return right / len(labels)


def agreement(kind: Texts, precision: str) -> dict[str, Any]:
    """How a precision's answers agree with float32's, at every exit and at the default dial."""
    from tests.benchmarks.engine_scaling import at_every_exit

    reference, found = at_every_exit("float32", kind.texts), at_every_exit(precision, kind.texts)
    rows: dict[str, Any] = {}
    for depth, (theirs, ours) in enumerate(
        zip(reference, found, strict=True), start=load(SHIPPED).model.config.depths[0]
    ):
        rows[f"exit_{depth}_same_label"] = float((theirs.argmax(1) == ours.argmax(1)).mean())
        rows[f"exit_{depth}_largest_difference"] = float(np.abs(theirs - ours).max())
        if kind.labels:
            names = np.array(load(SHIPPED).model.config.labels)
            rows[f"exit_{depth}_accuracy_float32"] = float((names[theirs.argmax(1)] == np.array(kind.labels)).mean())
            rows[f"exit_{depth}_accuracy"] = float((names[ours.argmax(1)] == np.array(kind.labels)).mean())
    whole, other = (
        open_engine("cpu", precision=one, threads=engine_clock.THREADS).score(kind.texts)
        for one in ("float32", precision)
    )
    rows["default_dial_same_label"] = float((whole.probabilities.argmax(1) == other.probabilities.argmax(1)).mean())
    rows["default_dial_same_depth"] = float((whole.exit_depth == other.exit_depth).mean())
    return rows


def limit(kind: Texts, reached: float) -> dict[str, float]:
    """The arithmetic limit: operations a text counted, the machine's peak in 8-bit products measured."""
    engine = open_engine("cpu", threads=engine_clock.THREADS)
    answers = engine.score(kind.texts)
    config = load(SHIPPED).model.config
    h, wide, n = config.hidden, config.feed_forward, answers.tokens.astype(np.float64)
    layer = n * (2 * h * (4 * h) + 4 * h * wide) + 4 * n**2 * h
    operations = float((layer * answers.exit_depth * config.inner_layers).mean())
    peak = int8_peak()
    return {
        "operations_per_text": operations,
        "peak_operations_per_second": peak,
        "limit_texts_per_second": peak / operations,
        "reached_share": reached * operations / peak if peak else 0.0,
    }


def int8_peak() -> float:
    """8-bit operations a second of all cores together, in registers; 0 where the processor has no such products."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.c")
        subprocess.run(["cc", *build.FLAGS, str(source), "-o", str(file)], check=True)
        library = ctypes.CDLL(str(file))
        library.peak.restype = ctypes.c_int64
        cores = engine_clock.THREADS or engine_clock.CORES
        best = 0.0
        for _ in range(7):
            done: list[int] = []
            threads = [threading.Thread(target=_spin, args=(library, done)) for _ in range(cores)]
            began = engine_clock.now()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            best = max(best, sum(done) / (engine_clock.now() - began))
    return best


def _spin(library: ctypes.CDLL, done: list[int]) -> None:
    out = (ctypes.c_int32 * 16)()
    done.append(int(library.peak(ctypes.c_int64(20_000_000), out)))


def alone(name: str) -> dict[str, float]:
    """Memory and time to the first answer of a peer in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.engine_peers", name], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def ratios(table: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the shipped engine is worth, under plain names."""
    speed = {name: row["texts_per_second"] for name, row in table.items()}
    ours = speed["earlybell"]
    found = {
        "vs_bert_base_batch1": ours / speed["bert_base_batch1"],
        "vs_bert_base_batch32_best": ours
        / max(speed["bert_base_batch32_float32"], speed["bert_base_batch32_bfloat16"]),
        "vs_bert_base_int8": ours / speed["bert_base_int8"],
        "vs_fastbert": ours / max(speed["fastbert_float32"], speed["fastbert_bfloat16"]),
        "engine_texts_per_second": ours,
    }
    found["vs_fastbert_at_its_accuracy"] = found["vs_fastbert"] * speed["earlybell_as_accurate"] / ours
    for precision in ("bfloat16", "int8"):
        base = speed[f"earlybell_{precision}_shrink"]
        for strategy in ("presort", "refill", "predict"):
            found[f"{precision}_{strategy}_vs_shrink"] = speed[f"earlybell_{precision}_{strategy}"] / base
        found[f"{precision}_shrink_vs_padded"] = base / speed[f"earlybell_{precision}_padded"]
    if "teacher_unshared" in speed:
        found["vs_teacher_unshared"] = ours / speed["teacher_unshared"]
    return found


def _shipped() -> dict[str, Any]:
    described = describe(SHIPPED)
    return {name: described[name] for name in ("name", "revision", "parameters", "default_dial")} | {
        "shape": {
            name: described["model"][name]
            for name in ("hidden", "heads", "feed_forward", "layers", "groups", "vocabulary", "head_hidden")
        },
        "engine": open_engine("cpu").description.precision,
    }
