"""The engine on one GPU against BERT-base there, its own strategies and knobs, and the machine's limits.

Same texts for all (TFNS validation and other headlines, repeated and shuffled, so that the queue stays full), turn by
turn, medians with their spread, tokenisation counted, by the wall clock. Slow peers score a part of the texts.
Left out where there is no GPU; ``EARLYBELL_BENCH_DEVICE=cpu`` runs all of it small on a CPU, to see that it runs: what
comes of that are no figures. It was reckoned, not measured, to take an H200
seven minutes; ``EARLYBELL_BENCH_ROUNDS=3`` makes it fewer.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from earlybell.inference.engine import Engine, open_engine, read_ahead
from earlybell.inference.model.checkpoint import SHIPPED, TOKENIZER_FILE, load
from earlybell.inference.model.elbert import Config
from earlybell.inference.predictions import Predictions
from tests.benchmarks import albert_base, gpu_roofline
from tests.benchmarks.engine_texts import Texts, collect

DEVICE = os.environ.get("EARLYBELL_BENCH_DEVICE", "cuda")
SMALL = DEVICE == "cpu"
ROUNDS = int(os.environ.get("EARLYBELL_BENCH_ROUNDS", "1" if SMALL else "5"))
NEEDS_SERVERS = False
#: Texts of a round at least, texts of a window, texts that a candidate is warmed with, and windows of a round.
CROWD, WINDOW, WARM, WINDOWS = (64, 16, 16, 2) if SMALL else (100_000, 512, 4_096, 64)
#: Side of the matrices that the peak is measured with.
PEAK_SIZE = 256 if SMALL else 8_192
PRECISION = "bfloat16"
ORDERS: tuple[Order, ...] = ("arrival", "length", "predicted")
BATCH_TOKENS = (512, 2_048) if SMALL else (4_096, 8_192, 16_384, 32_768, 65_536)
EVERY = (1, 2, 3, 4)
READERS = (1, 2, 4, 8)
#: By batch of BERT-base: texts and windows of a round.
BERT_BATCHES = {1: (8, 1), 32: (16, 1)} if SMALL else {1: (256, 1), 32: (4_096, 4), 256: (8_192, 4)}
OURS, ALBERT = "earlybell_refill", "albert_base"
BERT_PRECISIONS = (torch.bfloat16, torch.float16)
#: Of the two that have random weights; on a CPU they are to run, not to be measured.
ALBERT_SHAPE = replace(albert_base.SHAPE, layers=4, hidden=96, feed_forward=192) if SMALL else albert_base.SHAPE
BERT_SHAPE = {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192} if SMALL else {}


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that classifies texts on the device."""

    score: Callable[[Sequence[str]], Predictions | Answers | None]  # None: no answers worth a look
    texts: int = 0  # of a round; 0: all
    windows: int = WINDOWS  # of a round
    learned: bool = True  # whether an accuracy means anything


def missing() -> str | None:
    """Why this cannot be measured here, if it cannot."""
    if SMALL:
        return None
    if not torch.cuda.is_available():
        return "no CUDA device here (EARLYBELL_BENCH_DEVICE=cpu runs it small on a CPU, to see that it runs)"
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU does not compute in bfloat16: it takes one of the Ampere generation or later"
    return None


def measure(servers: object = None) -> dict[str, Any]:
    """All tables; the ratios under plain names, none of them from a CPU."""
    kinds = collect()
    labelled = next(iter(kinds.values()))
    if SMALL:
        labelled = Texts(labelled.texts[:CROWD], labelled.labels and labelled.labels[:CROWD])
    crowd = gathered([one for kind, one in kinds.items() if kind != "articles"])
    ours = open_engine(DEVICE, precision=PRECISION, strategy="refill")
    ours.warm_up()
    found: dict[str, Any] = {"device": described(), "rounds": ROUNDS, "window": WINDOW}
    say("reading alone")
    found["reading"] = reading(ours, crowd)
    found["texts"] = {"count": len(crowd), "mean_tokens": float(lengths(crowd).mean()), "small": SMALL}
    makers: dict[str, Callable[[], Candidate]] = {
        f"earlybell_{name}": partial(shipped, strategy=name) for name in STRATEGIES
    }
    makers["earlybell_exact"] = partial(shipped, exact=True)
    makers |= alberts(ours, crowd)
    makers |= {
        f"bert_base_batch{batch}_{str(dtype).removeprefix('torch.')}": partial(bert, batch, dtype)
        for batch in BERT_BATCHES
        for dtype in BERT_PRECISIONS
    }
    found["side_by_side"] = table(makers, crowd, labelled)
    say("tokens of a batch")
    found["batch_tokens"] = table(
        {str(tokens): partial(shipped, strategy="refill", batch_tokens=tokens) for tokens in BATCH_TOKENS},
        crowd, labelled,
    )  # fmt: skip
    say("steps between refills")
    found["every"] = table(
        {str(every): partial(by_hand, ours, STRATEGIES["refill"], refill_every=every) for every in EVERY},
        crowd,
        labelled,
    )
    say("order")
    found["order"] = table(
        {
            f"{name}_{order}": partial(by_hand, ours, replace(STRATEGIES[name], order=order))
            for name in ("presort", "refill")
            for order in ORDERS
        },
        crowd, labelled,
    )  # fmt: skip
    say("roofline")
    found["roofline"] = roofline(ours, crowd, found["side_by_side"])
    found["ratios"] = {} if SMALL else ratios(found["side_by_side"])
    return found


def say(what: str) -> None:
    """A sign of life."""
    print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def described() -> dict[str, Any]:
    """The device, and which model is on it."""
    checkpoint = load(SHIPPED)
    found: dict[str, Any] = {"name": DEVICE, "model": checkpoint.calibration.name, "revision": checkpoint.revision}
    if not SMALL:
        properties = torch.cuda.get_device_properties(DEVICE)
        found |= {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return found


def gathered(kinds: Sequence[Texts]) -> list[str]:
    """Whole copies of all texts, shuffled, so that any part of them is like the whole."""
    texts = [text for one in kinds for text in one.texts]
    many = texts * -(-CROWD // len(texts))
    random.Random(1).shuffle(many)
    return many[:CROWD] if SMALL else many


def lengths(texts: Sequence[str]) -> NDArray[np.int32]:
    """(texts,) tokens of each, as the shipped model reads it."""
    return np.array([len(row) for row in load(SHIPPED).reader.read(texts)], np.int32)


def table(makers: dict[str, Callable[[], Candidate]], crowd: list[str], labelled: Texts) -> dict[str, dict[str, Any]]:
    """Each candidate's texts/s, tokens/s, window latencies, mean depth, accuracy and memory, by name."""
    made: dict[str, Candidate] = {}
    memory: dict[str, float] = {}
    for name, make in makers.items():
        say(name)
        made[name], memory[name] = warmed(make, crowd)
    speeds: dict[str, list[float]] = {name: [] for name in made}
    windows: dict[str, list[float]] = {name: [] for name in made}
    depths: dict[str, float] = {}
    for number in range(ROUNDS):
        say(f"round {number + 1} of {ROUNDS}")
        for name, one in made.items():
            texts = crowd[: one.texts or None]
            began = time.perf_counter()
            answers = one.score(texts)
            speeds[name].append(len(texts) / (time.perf_counter() - began))
            if answers is not None:
                depths[name] = float(answers.exit_depth.mean())
            for place in range(one.windows):
                start = (number * one.windows + place) * WINDOW % (len(crowd) - WINDOW + 1)
                began = time.perf_counter()
                one.score(crowd[start : start + WINDOW])
                windows[name].append(time.perf_counter() - began)
    tokens = lengths(crowd)
    rows: dict[str, dict[str, Any]] = {}
    for name, one in made.items():
        count = one.texts or len(crowd)
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
        if one.learned and labelled.labels:
            rows[name]["accuracy"] = accuracy(one, labelled)
    return rows


def warmed(make: Callable[[], Candidate], crowd: list[str]) -> tuple[Candidate, float]:
    """A candidate that has run, and the MiB of the device's memory that it took from torch's store for that."""
    before = _reserved()
    one = make()
    some = min(one.texts or WARM, WARM)
    one.score(crowd[:some])
    return one, (_reserved(peak=True) - before) / 2**20


def _reserved(peak: bool = False) -> int:
    """Bytes, or the most since this was last asked without ``peak``: graphs' own memory is among them."""
    if SMALL:
        return 0
    if peak:
        return torch.cuda.max_memory_reserved(DEVICE)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(DEVICE)
    return torch.cuda.memory_reserved(DEVICE)


def accuracy(one: Candidate, kind: Texts) -> float:
    """Share of labels that were found."""
    answers = one.score(kind.texts)
    if answers is None or kind.labels is None:
        raise ValueError("a candidate that learned something gives answers, and its texts have labels")
    names = np.array(load(SHIPPED).model.config.labels)
    return float((names[answers.probabilities.argmax(1)] == np.array(kind.labels)).mean())


def shipped(**how: Any) -> Candidate:
    """The shipped model, put on the device in this way."""
    engine = open_engine(DEVICE, precision=PRECISION, **how)
    engine.warm_up()
    return Candidate(engine.score)


def by_hand(engine: Engine, strategy: Strategy, refill_every: int = 1) -> Candidate:
    """Return a strategy with settings that no engine offers; nothing is tokenized ahead."""
    assert isinstance(engine.backend, PaddedBackend)
    backend: Backend = replace(engine.backend, refill_every=refill_every) if refill_every > 1 else engine.backend

    def score(texts: Sequence[str]) -> Answers:
        return strategy.run(backend, engine.window(engine.read(texts)))

    return Candidate(score)


def alberts(ours: Engine, crowd: list[str]) -> dict[str, Callable[[], Candidate]]:
    """ALBERT-base's size, random weights: at full depth, and with exits drawn as the shipped model's fall."""

    def opened(dial: float, strategy: str, temperatures: Sequence[float] | None = None) -> Engine:
        checkpoint = albert_base.untrained(ALBERT_SHAPE)  # each its own, so that each one's memory is its own
        if temperatures is not None:
            checkpoint = albert_base.with_exits(checkpoint, temperatures)
        return Engine(checkpoint, device=DEVICE, dial=dial, precision=PRECISION, strategy=strategy)

    def candidate(dial: float, temperatures: Sequence[float] | None = None) -> Candidate:
        engine = opened(dial, "refill", temperatures)
        engine.warm_up()
        return Candidate(engine.score, learned=False)

    some = crowd[:WARM]
    depths = np.minimum(ours.score(some).exit_depth, ALBERT_SHAPE.layers)
    shares = np.bincount(depths, minlength=ALBERT_SHAPE.layers + 1) / len(some)
    drawn = albert_base.drawn_temperatures(albert_base.log_probabilities(opened(0.0, "shrink"), some), shares)
    return {
        f"{ALBERT}_full_depth": partial(candidate, 0.0),
        f"{ALBERT}_with_exits": partial(candidate, 1.0, drawn),
    }


def bert(batch: int, dtype: torch.dtype) -> Candidate:
    """BERT-base's size through ``transformers.pipeline``, random weights; sorted by length where it has batches."""
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
    return Candidate(score, texts, windows, learned=False)


def reading(engine: Engine, crowd: list[str]) -> dict[str, dict[str, float]]:
    """Texts/s from texts to ids, in the caller's thread and in others, with nothing else to do."""
    proper = load(SHIPPED).reader
    ways: dict[str, Callable[[], object]] = {
        "in_the_callers_thread": lambda: engine.read(crowd),
        "tokenizer_proper": lambda: proper.read(crowd),
    }
    pools = {count: ThreadPoolExecutor(count) for count in READERS}
    for count, pool in pools.items():
        ways[f"threads_{count}"] = partial(_read_in, pool, engine, crowd)
    laps: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            laps[name].append(time.perf_counter() - began)
    for pool in pools.values():
        pool.shutdown()
    return {
        name: {
            "texts_per_second": len(crowd) / statistics.median(seconds),
            "lowest": len(crowd) / max(seconds),
            "highest": len(crowd) / min(seconds),
        }
        for name, seconds in laps.items()
    }


def _read_in(pool: ThreadPoolExecutor, engine: Engine, texts: Sequence[str]) -> None:
    for _ in read_ahead(engine.read, texts, pool):
        pass


def roofline(ours: Engine, crowd: list[str], rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Peaks, and how near the shipped model and ALBERT-base's size at full depth come to what they allow."""
    device, tokens = torch.device(DEVICE), lengths(crowd)
    at_once = ours.backend.batch_tokens
    peaks = gpu_roofline.peaks(device, PEAK_SIZE)
    found: dict[str, dict[str, float]] = {"peaks": peaks}
    cases: dict[str, tuple[Config, NDArray[np.int16]]] = {
        OURS: (ours.backend.config, ours.score(crowd).exit_depth),
        f"{ALBERT}_full_depth": (ALBERT_SHAPE, np.full(len(crowd), ALBERT_SHAPE.layers, np.int16)),
    }
    for name, (config, depth) in cases.items():
        found[name] = gpu_roofline.reached(config, tokens, depth, at_once, rows[name]["texts_per_second"], peaks)
        found[name]["peak_at_its_shape"] = gpu_roofline.product_peak(device, config, at_once)
    return found


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the engine is worth on a GPU, under plain names."""
    speed = {name: row["texts_per_second"] for name, row in rows.items()}
    one = max(of for name, of in speed.items() if name.startswith("bert_base_batch1_"))
    many = max(of for name, of in speed.items() if name.startswith("bert_base_batch"))
    found = {
        "gpu_texts_per_second": speed[OURS],
        "gpu_vs_bert_base_batch1": speed[OURS] / one,
        "gpu_vs_bert_base_batched_best": speed[OURS] / many,
        "gpu_shrink_vs_padded": speed["earlybell_shrink"] / speed["earlybell_padded"],
    }
    for strategy in ("presort", "predict", "refill"):
        found[f"gpu_{strategy}_vs_shrink"] = speed[f"earlybell_{strategy}"] / speed["earlybell_shrink"]
    for way in ("full_depth", "with_exits"):
        found[f"gpu_{ALBERT}_{way}_texts_per_second"] = speed[f"{ALBERT}_{way}"]
        found[f"gpu_{ALBERT}_{way}_vs_bert_base_batched_best"] = speed[f"{ALBERT}_{way}"] / many
    return found
