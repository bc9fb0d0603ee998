"""The engine on one GPU against BERT-base, across its own strategies and settings, and against the GPU's limits.

All candidates score the same texts (TFNS validation and other headlines, repeated and shuffled so that the queue stays
full) in alternating rounds, slow ones a part of them; medians, lowest and highest by the wall clock, including
tokenization. Skipped without a GPU. ``EARLYBELL_BENCH_DEVICE=cpu`` runs everything at a small size on a CPU, only to
check that it works: its figures mean nothing. Estimated, not measured, to take seven minutes on an H200;
``EARLYBELL_BENCH_ROUNDS=3`` shortens it.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.padded import PaddedBackend
from earlybell.inference.batching.backend import Answers, Backend
from earlybell.inference.batching.planning import Order
from earlybell.inference.batching.strategies import STRATEGIES, Strategy
from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.model.checkpoint import SHIPPED, TOKENIZER_FILE, load
from earlybell.inference.model.config import Config
from earlybell.inference.predictions import Predictions
from tests.benchmarks import albert_base, gpu_roofline
from tests.benchmarks.engine_texts import Corpus, collect

DEVICE = os.environ.get("EARLYBELL_BENCH_DEVICE", "cuda")
SMALL = DEVICE == "cpu"
ROUNDS = int(os.environ.get("EARLYBELL_BENCH_ROUNDS", "1" if SMALL else "5"))
NEEDS_SERVERS = False
#: Texts per round (at least), texts per window, texts to warm up with, and windows per round.
QUEUE_TEXTS, WINDOW, WARM_UP_TEXTS, WINDOWS = (64, 16, 16, 2) if SMALL else (100_000, 512, 4_096, 64)
#: Side of the square matrices that measure the peak.
PEAK_SIZE = 256 if SMALL else 8_192
PRECISION = "bfloat16"
ORDERS: tuple[Order, ...] = ("arrival", "length", "predicted")
BATCH_TOKENS = (512, 2_048) if SMALL else (4_096, 8_192, 16_384, 32_768, 65_536)
REFILL_EVERY = (1, 2, 3, 4)
#: By batch size of BERT-base: texts and windows per round.
BERT_BATCHES = {1: (8, 1), 32: (16, 1)} if SMALL else {1: (256, 1), 32: (4_096, 4), 256: (8_192, 4)}
OURS, ALBERT = "earlybell_refill", "albert_base"
BERT_PRECISIONS = (torch.bfloat16, torch.float16)
#: The two models with random weights; tiny on a CPU, where they only have to run.
ALBERT_SHAPE = replace(albert_base.SHAPE, layers=4, hidden=96, feed_forward=192) if SMALL else albert_base.SHAPE
BERT_SHAPE = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192} if SMALL else {}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that classifies texts on the device."""

    score: Callable[[Sequence[str]], Predictions | Answers | None]  # None: random weights, nothing to compare
    texts: int = 0  # per round; 0: all
    windows: int = WINDOWS  # per round
    trained: bool = True  # otherwise its accuracy means nothing


def missing() -> str | None:
    """Return why this machine cannot run the benchmark, or None."""
    if SMALL:
        return None
    if not torch.cuda.is_available():
        return "no CUDA device here (EARLYBELL_BENCH_DEVICE=cpu runs it at a small size, to check that it works)"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU does not support bfloat16: use one of the Ampere generation or later"
    return None


def measure(servers: object = None) -> dict[str, Any]:
    """Return all tables, and the ratios unless on a CPU."""
    corpora = collect()
    labelled = next(iter(corpora.values()))
    if SMALL:
        labelled = Corpus(labelled.texts[:QUEUE_TEXTS], labelled.labels and labelled.labels[:QUEUE_TEXTS])
    queue = shuffled([corpus for name, corpus in corpora.items() if name != "articles"])
    engine = open_engine(DEVICE, precision=PRECISION, strategy="refill")
    engine.warm_up()
    results: dict[str, Any] = {"device": describe(), "rounds": ROUNDS, "window": WINDOW}
    log_progress("tokenization alone")
    results["reading"] = reading(engine, queue)
    results["texts"] = {"count": len(queue), "mean_tokens": float(lengths(queue).mean()), "small": SMALL}
    openers: dict[str, Callable[[], Candidate]] = {
        f"earlybell_{name}": partial(shipped, strategy=name) for name in STRATEGIES
    }
    openers["earlybell_exact"] = partial(shipped, exact=True)
    openers |= albert(engine, queue)
    openers |= {
        f"bert_base_batch{batch}_{str(dtype).removeprefix('torch.')}": partial(bert, batch, dtype)
        for batch in BERT_BATCHES
        for dtype in BERT_PRECISIONS
    }
    results["side_by_side"] = table(openers, queue, labelled)
    log_progress("tokens per batch")
    results["batch_tokens"] = table(
        {str(tokens): partial(shipped, strategy="refill", batch_tokens=tokens) for tokens in BATCH_TOKENS},
        queue, labelled,
    )  # fmt: skip
    log_progress("steps between refills")
    results["every"] = table(
        {
            str(steps): partial(with_strategy, engine, STRATEGIES["refill"], refill_every=steps)
            for steps in REFILL_EVERY
        },
        queue,
        labelled,
    )
    log_progress("order")
    results["order"] = table(
        {
            f"{name}_{order}": partial(with_strategy, engine, replace(STRATEGIES[name], order=order))
            for name in ("presort", "refill")
            for order in ORDERS
        },
        queue, labelled,
    )  # fmt: skip
    log_progress("roofline")
    results["roofline"] = roofline(engine, queue, results["side_by_side"])
    results["ratios"] = {} if SMALL else ratios(results["side_by_side"])
    return results


def log_progress(step: str) -> None:
    """Print the time and the current step."""
    print(f"  {time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


def describe() -> dict[str, Any]:
    """Return the device's properties, and the model's name and revision."""
    checkpoint = load(SHIPPED)
    device: dict[str, Any] = {"name": DEVICE, "model": checkpoint.calibration.name, "revision": checkpoint.revision}
    if not SMALL:
        properties = torch.cuda.get_device_properties(DEVICE)
        device |= {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return device


def shuffled(corpora: Sequence[Corpus]) -> list[str]:
    """Return whole copies of all texts, shuffled, so that any part of them is like the whole."""
    texts = [text for corpus in corpora for text in corpus.texts]
    copies = texts * -(-QUEUE_TEXTS // len(texts))
    random.Random(1).shuffle(copies)
    return copies[:QUEUE_TEXTS] if SMALL else copies


def lengths(texts: Sequence[str]) -> NDArray[np.int32]:
    """Return the tokens of each text for the shipped model: (texts,)."""
    return load(SHIPPED).reader.read(texts).lengths


def table(openers: dict[str, Callable[[], Candidate]], queue: list[str], labelled: Corpus) -> dict[str, dict[str, Any]]:
    """Measure each candidate: texts/s, tokens/s, window latency in ms, peak memory in MiB, mean depth and accuracy."""
    candidates: dict[str, Candidate] = {}
    memory: dict[str, float] = {}
    for name, open_candidate in openers.items():
        log_progress(name)
        candidates[name], memory[name] = open_and_warm_up(open_candidate, queue)
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    windows: dict[str, list[float]] = {name: [] for name in candidates}
    depths: dict[str, float] = {}
    for number in range(ROUNDS):
        log_progress(f"round {number + 1} of {ROUNDS}")
        for name, candidate in candidates.items():
            texts = queue[: candidate.texts or None]
            began = time.perf_counter()
            answers = candidate.score(texts)
            speeds[name].append(len(texts) / (time.perf_counter() - began))
            if answers is not None:
                depths[name] = float(answers.exit_depth.mean())
            for window in range(candidate.windows):
                start = (number * candidate.windows + window) * WINDOW % (len(queue) - WINDOW + 1)
                began = time.perf_counter()
                candidate.score(queue[start : start + WINDOW])
                windows[name].append(time.perf_counter() - began)
    tokens = lengths(queue)
    rows: dict[str, dict[str, Any]] = {}
    for name, candidate in candidates.items():
        count = candidate.texts or len(queue)
        median = statistics.median(speeds[name])
        rows[name] = {
            "texts_per_second": median,
            "lowest": min(speeds[name]),
            "highest": max(speeds[name]),
            "tokens_per_second": median * float(tokens[:count].mean()),
            "texts_a_round": count,
            "window_p50_ms": 1e3 * float(np.percentile(windows[name], 50)),
            "window_p99_ms": 1e3 * float(np.percentile(windows[name], 99)),
            "peak_memory_mib": memory[name],
        }
        if name in depths:
            rows[name]["mean_depth"] = depths[name]
        if candidate.trained and labelled.labels:
            rows[name]["accuracy"] = accuracy(candidate, labelled)
    return rows


def open_and_warm_up(open_candidate: Callable[[], Candidate], queue: list[str]) -> tuple[Candidate, float]:
    """Return a candidate that has run, and the peak device memory in MiB that torch's allocator reserved for it."""
    before = _reserved()
    candidate = open_candidate()
    count = min(candidate.texts or WARM_UP_TEXTS, WARM_UP_TEXTS)
    candidate.score(queue[:count])
    return candidate, (_reserved(peak=True) - before) / 2**20


def _reserved(peak: bool = False) -> int:
    """Return the reserved bytes, CUDA graphs included, or their peak since the last call without ``peak``."""
    if SMALL:
        return 0
    if peak:
        return torch.cuda.max_memory_reserved(DEVICE)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(DEVICE)
    return torch.cuda.memory_reserved(DEVICE)


def accuracy(candidate: Candidate, corpus: Corpus) -> float:
    """Return the share of answers that equal the labels."""
    answers = candidate.score(corpus.texts)
    if answers is None or corpus.labels is None:
        raise ValueError("accuracy needs a candidate that returns answers, and texts with labels")
    names = np.array(load(SHIPPED).config.labels)
    return float((names[answers.probabilities.argmax(1)] == np.array(corpus.labels)).mean())


def shipped(**options: Any) -> Candidate:
    """Open the shipped model on the device with these options."""
    engine = open_engine(DEVICE, precision=PRECISION, **options)
    engine.warm_up()
    return Candidate(engine.score)


def with_strategy(engine: Engine, strategy: Strategy, refill_every: int = 1) -> Candidate:
    """Run a strategy with settings that the engine does not offer; nothing is tokenized ahead."""
    assert isinstance(engine.backend, PaddedBackend)
    backend: Backend = replace(engine.backend, refill_every=refill_every) if refill_every > 1 else engine.backend

    def score(texts: Sequence[str]) -> Answers:
        return strategy.run(backend, engine.window(engine.read(texts)))

    return Candidate(score)


def albert(shipped_engine: Engine, queue: list[str]) -> dict[str, Callable[[], Candidate]]:
    """Return openers of a random ALBERT-base: at full depth, and with as many texts per exit as the shipped model."""

    def open_albert(dial: float, strategy: str, temperatures: Sequence[float] | None = None) -> Engine:
        checkpoint = albert_base.untrained(ALBERT_SHAPE)  # not shared, so that each engine's memory counts
        if temperatures is not None:
            checkpoint = albert_base.with_exits(checkpoint, temperatures)
        return Engine(checkpoint, device=DEVICE, dial=dial, precision=PRECISION, strategy=strategy)

    def candidate(dial: float, temperatures: Sequence[float] | None = None) -> Candidate:
        engine = open_albert(dial, "refill", temperatures)
        engine.warm_up()
        return Candidate(engine.score, trained=False)

    sample = queue[:WARM_UP_TEXTS]
    depths = np.minimum(shipped_engine.score(sample).exit_depth, ALBERT_SHAPE.layers)
    shares = np.bincount(depths, minlength=ALBERT_SHAPE.layers + 1) / len(sample)
    log_probabilities = albert_base.log_probabilities(open_albert(0.0, "shrink"), sample)
    temperatures = albert_base.temperatures_for_shares(log_probabilities, shares)
    return {
        f"{ALBERT}_full_depth": partial(candidate, 0.0),
        f"{ALBERT}_with_exits": partial(candidate, 1.0, temperatures),
    }


def bert(batch: int, dtype: torch.dtype) -> Candidate:
    """Open a random BERT-base through ``transformers.pipeline``; batches of more than one are sorted by length."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=3, **BERT_SHAPE)).eval().to(dtype)
    # The shipped tokenizer has BERT-base's vocabulary.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(SHIPPED / TOKENIZER_FILE), model_max_length=512,
        pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]",
    )  # fmt: skip
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=DEVICE, dtype=dtype)

    def score(texts: Sequence[str]) -> None:
        with torch.inference_mode():
            classify(sorted(texts, key=len) if batch > 1 else list(texts), batch_size=batch, truncation=True)

    texts, windows = BERT_BATCHES[batch]
    return Candidate(score, texts, windows, trained=False)


def reading(engine: Engine, queue: list[str]) -> dict[str, dict[str, float]]:
    """Measure tokenization alone in texts/s."""
    uncompiled = load(SHIPPED).reader
    methods: dict[str, Callable[[], object]] = {
        "in_the_callers_thread": lambda: engine.read(queue),
        "tokenizer_proper": lambda: uncompiled.read(queue),
    }
    laps: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(ROUNDS):
        for name, method in methods.items():
            began = time.perf_counter()
            method()
            laps[name].append(time.perf_counter() - began)
    return {
        name: {
            "texts_per_second": len(queue) / statistics.median(seconds),
            "lowest": len(queue) / max(seconds),
            "highest": len(queue) / min(seconds),
        }
        for name, seconds in laps.items()
    }


def roofline(engine: Engine, queue: list[str], rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Measure the device's peaks, and the share of them that the shipped model and a full-depth ALBERT-base reach."""
    device, tokens = torch.device(DEVICE), lengths(queue)
    batch_tokens = engine.backend.batch_tokens
    peaks = gpu_roofline.peaks(device, PEAK_SIZE)
    figures: dict[str, dict[str, float]] = {"peaks": peaks}
    cases: dict[str, tuple[Config, NDArray[np.int16]]] = {
        OURS: (engine.backend.config, engine.score(queue).exit_depth),
        f"{ALBERT}_full_depth": (ALBERT_SHAPE, np.full(len(queue), ALBERT_SHAPE.layers, np.int16)),
    }
    for name, (config, depth) in cases.items():
        speed = rows[name]["texts_per_second"]
        figures[name] = gpu_roofline.reached(config, tokens, depth, batch_tokens, speed, peaks)
        figures[name]["peak_at_its_shape"] = gpu_roofline.product_peak(device, config, batch_tokens)
    return figures


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the engine's speed over BERT-base's, and each strategy's over ``shrink``."""
    speeds = {name: row["texts_per_second"] for name, row in rows.items()}
    best_batch1 = max(speed for name, speed in speeds.items() if name.startswith("bert_base_batch1_"))
    best_batched = max(speed for name, speed in speeds.items() if name.startswith("bert_base_batch"))
    figures = {
        "gpu_texts_per_second": speeds[OURS],
        "gpu_vs_bert_base_batch1": speeds[OURS] / best_batch1,
        "gpu_vs_bert_base_batched_best": speeds[OURS] / best_batched,
        "gpu_shrink_vs_padded": speeds["earlybell_shrink"] / speeds["earlybell_padded"],
    }
    for strategy in ("presort", "predict", "refill"):
        figures[f"gpu_{strategy}_vs_shrink"] = speeds[f"earlybell_{strategy}"] / speeds["earlybell_shrink"]
    for case in ("full_depth", "with_exits"):
        figures[f"gpu_{ALBERT}_{case}_texts_per_second"] = speeds[f"{ALBERT}_{case}"]
        figures[f"gpu_{ALBERT}_{case}_vs_bert_base_batched_best"] = speeds[f"{ALBERT}_{case}"] / best_batched
    return figures
