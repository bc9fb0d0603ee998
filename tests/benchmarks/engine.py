"""The engine against its peers on one machine: same texts, in alternating rounds; medians, lowest and highest.

All timings include tokenization. Slow peers score a sample of the texts in each round (for those that sort by length,
whole batches at even intervals of the sorted texts), so that a round takes about a minute.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from earlybell.inference.engine import open_engine
from earlybell.inference.kernels import library
from earlybell.inference.model.checkpoint import SHIPPED, describe, load
from earlybell.inference.predictions import Predictions
from tests.benchmarks import engine_clock, engine_plots, engine_reading, engine_scaling, fastbert
from tests.benchmarks.engine_peers import TORCH_PRECISION, Peer, by_length, peers
from tests.benchmarks.engine_texts import Corpus, collect
from tests.benchmarks.int8_peak import int8_peak

ROUNDS = int(os.environ.get("EARLYBELL_BENCH_ROUNDS", "5"))
WINDOW, LATENCY_WINDOW = 512, 64
RESULTS = Path(__file__).parent / "results"
NEEDS_SERVERS = False
CLOCKS = {
    "wall": "wall clock, all cores",
    "cpu": "processor time, one thread each: the machine was busy, so texts/s are per core",
}
#: Peers whose memory and time to the first answer are measured, each in a separate process.
MEMORY_PEERS = (
    "bert_base_batch1",
    "bert_base_int8",
    f"fastbert_{TORCH_PRECISION}",
    f"earlybell_{TORCH_PRECISION}_presort",
    "earlybell",
)
#: Peers that also score the unlabelled texts.
UNLABELLED_PEERS = (
    "bert_base_batch1",
    f"bert_base_batch32_{TORCH_PRECISION}",
    "bert_base_int8",
    f"earlybell_{TORCH_PRECISION}_presort",
    "earlybell_int8_padded",
    "earlybell",
)


def measure(servers: object = None) -> dict[str, Any]:
    """Return all tables: speeds side by side, agreement of precisions, hardware limit, scaling, memory and ratios."""
    engine_clock.set_threads()
    corpora = collect()
    labelled = next(iter(corpora))
    opened = {name: open_peer() for name, open_peer in peers().items()}
    results: dict[str, Any] = {"shipped": _shipped(), "rounds": ROUNDS, "clock": CLOCKS[engine_clock.CLOCK]}
    tables = {labelled: side_by_side(opened, corpora[labelled])}
    for name, corpus in corpora.items():
        if name != labelled:
            tables[name] = side_by_side(
                {peer: opened[peer] for peer in UNLABELLED_PEERS}, corpus, scale=16 if name == "articles" else 1
            )
    results["tables"] = tables
    results["fastbert"] = fastbert.describe()
    log_progress("precision")
    results["precision"] = {
        precision: agreement(corpora[labelled], precision) for precision in (TORCH_PRECISION, "int8")
    }
    results["limit"] = limit(corpora[labelled], tables[labelled]["earlybell"]["texts_per_second"])
    log_progress("reading")
    results["reading"] = engine_reading.measure(corpora)
    log_progress("scaling")
    results["scaling"] = engine_scaling.measure(corpora)
    log_progress("memory")
    results["memory"] = {peer: in_new_process(peer) for peer in MEMORY_PEERS}
    results["ratios"] = ratios(tables[labelled])
    RESULTS.mkdir(exist_ok=True)
    engine_plots.draw(results, labelled, RESULTS / "engine.png")
    return results


def side_by_side(opened: dict[str, Peer], corpus: Corpus, scale: int = 1) -> dict[str, dict[str, Any]]:
    """Measure each peer: texts/s, tokens/s, latency of a window in ms, mean exit depth and accuracy.

    Parameters
    ----------
    scale
        What each peer's sample is divided by, for long texts.
    """
    speeds: dict[str, list[float]] = {name: [] for name in opened}
    windows: dict[str, list[float]] = {name: [] for name in opened}
    samples = {name: sample(peer, corpus.texts, scale) for name, peer in opened.items()}
    for name, peer in opened.items():
        peer.score(samples[name][:LATENCY_WINDOW:4])
    for number in range(ROUNDS):
        log_progress(f"round {number + 1} of {ROUNDS}")
        for name, peer in opened.items():
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
    for name, peer in opened.items():
        tokens = float(reader.read(samples[name]).lengths.mean())
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
            row |= quality(peer, corpus)
        table[name] = row
    return table


def log_progress(step: str) -> None:
    """Print the time and the current step; the whole benchmark takes a quarter of an hour."""
    print(f"  {time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


def sample(peer: Peer, texts: Sequence[str], scale: int) -> list[str]:
    """Return the texts that a peer scores in each round."""
    share = max(2, peer.share // scale)
    if "batch32" in peer.name or peer.name in ("bert_base_int8",):
        return by_length(texts, share)
    # Every k-th text, so that the sample is like the whole.
    return list(texts)[:: max(1, len(texts) // share)][:share]


def quality(peer: Peer, corpus: Corpus) -> dict[str, float]:
    """Return the mean exit depth on all texts, and the accuracy if they are labelled."""
    answers = peer.score(corpus.texts)
    if answers is None:
        return {}
    figures = {"mean_depth": float(answers.exit_depth.mean())}
    if corpus.labels:
        figures["accuracy"] = accuracy(answers, corpus.labels)
    return figures


def accuracy(answers: Predictions, labels: Sequence[str]) -> float:
    """Return the share of answers that equal the labels."""
    names = load(SHIPPED).config.labels
    predicted = [names[index] for index in answers.probabilities.argmax(1)]
    correct: int = sum(answer == label for answer, label in zip(predicted, labels, strict=True))
    return correct / len(labels)


def agreement(corpus: Corpus, precision: str) -> dict[str, Any]:
    """Compare a precision's answers with float32's, at every exit and at the default dial."""
    from tests.benchmarks.engine_scaling import at_every_exit

    float32, reduced = at_every_exit("float32", corpus.texts), at_every_exit(precision, corpus.texts)
    figures: dict[str, Any] = {}
    for depth, (expected, actual) in enumerate(
        zip(float32, reduced, strict=True), start=load(SHIPPED).config.depths[0]
    ):
        figures[f"exit_{depth}_same_label"] = float((expected.argmax(1) == actual.argmax(1)).mean())
        figures[f"exit_{depth}_largest_difference"] = float(np.abs(expected - actual).max())
        if corpus.labels:
            names, labels = np.array(load(SHIPPED).config.labels), np.array(corpus.labels)
            figures[f"exit_{depth}_accuracy_float32"] = float((names[expected.argmax(1)] == labels).mean())
            figures[f"exit_{depth}_accuracy"] = float((names[actual.argmax(1)] == labels).mean())
    expected_answers, answers = (
        open_engine("cpu", precision=name, threads=engine_clock.THREADS).score(corpus.texts)
        for name in ("float32", precision)
    )
    figures["default_dial_same_label"] = float(
        (expected_answers.probabilities.argmax(1) == answers.probabilities.argmax(1)).mean()
    )
    figures["default_dial_same_depth"] = float((expected_answers.exit_depth == answers.exit_depth).mean())
    return figures


def limit(corpus: Corpus, reached: float, dial: float | None = None) -> dict[str, float]:
    """Return the hardware limit in texts/s, and the share of it that the engine reaches.

    Operations per text are counted from the model's shape; the peak of 8-bit products is measured, in the form of the
    kernels that is in use.

    Parameters
    ----------
    reached
        The engine's measured texts/s.
    """
    engine = open_engine("cpu", dial=dial, threads=engine_clock.THREADS)
    answers = engine.score(corpus.texts)
    config = load(SHIPPED).config
    h, wide, n = config.hidden, config.feed_forward, answers.tokens.astype(np.float64)
    layer = n * (2 * h * (4 * h) + 4 * h * wide) + 4 * n**2 * h
    operations = float((layer * answers.exit_depth * config.inner_layers).mean())
    form = library.chosen_form()
    peak = int8_peak(form) if form else 0.0
    return {
        "operations_per_text": operations,
        "peak_operations_per_second": peak,
        "limit_texts_per_second": peak / operations,
        "reached_share": reached * operations / peak if peak else 0.0,
    }


def in_new_process(name: str) -> dict[str, float]:
    """Measure a peer in a new process: memory in MiB, and seconds to the first answer."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.engine_peers", name], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(process.stdout.strip().splitlines()[-1])
    return figures


def ratios(table: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the shipped engine's speed over each peer's, and each strategy's over ``shrink``."""
    speed = {name: row["texts_per_second"] for name, row in table.items()}
    ours = speed["earlybell"]
    figures = {
        "vs_bert_base_batch1": ours / speed["bert_base_batch1"],
        "vs_bert_base_batch32_best": ours
        / max(value for name, value in speed.items() if name.startswith("bert_base_batch32")),
        "vs_bert_base_int8": ours / speed["bert_base_int8"],
        "vs_fastbert": ours / max(speed["fastbert_float32"], speed[f"fastbert_{TORCH_PRECISION}"]),
        "engine_texts_per_second": ours,
    }
    figures["vs_fastbert_at_its_accuracy"] = figures["vs_fastbert"] * speed["earlybell_as_accurate"] / ours
    for precision in (TORCH_PRECISION, "int8"):
        base = speed[f"earlybell_{precision}_shrink"]
        for strategy in ("presort", "refill", "predict"):
            figures[f"{precision}_{strategy}_vs_shrink"] = speed[f"earlybell_{precision}_{strategy}"] / base
        figures[f"{precision}_shrink_vs_padded"] = base / speed[f"earlybell_{precision}_padded"]
    if "teacher_unshared" in speed:
        figures["vs_teacher_unshared"] = ours / speed["teacher_unshared"]
    return figures


def _shipped() -> dict[str, Any]:
    description = describe(SHIPPED)
    return {name: description[name] for name in ("name", "revision", "parameters", "default_dial")} | {
        "shape": {
            name: description["model"][name]
            for name in ("hidden", "heads", "feed_forward", "layers", "groups", "vocabulary", "head_hidden")
        },
        "engine": open_engine("cpu").description.precision,
    }
