"""Reading alone, from strings to token ids, on one thread: microseconds a text, and its share of scoring."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from earlybell.inference.engine import Engine, open_engine
from earlybell.inference.model.checkpoint import SHIPPED, TOKENIZER_FILE
from earlybell.inference.model.tokenizer import Reader
from tests.benchmarks.engine_texts import Corpus

WINDOW, ROUNDS = 512, 5


def measure(corpora: dict[str, Corpus]) -> dict[str, Any]:
    """Return a row for each corpus."""
    engine = open_engine("cpu", threads=1)
    return {name: reading(engine, corpus.texts) for name, corpus in corpora.items()}


def reading(engine: Engine, texts: Sequence[str]) -> dict[str, float]:
    """Measure in windows, by processor time: the least of several rounds, since other work only adds."""
    library = Reader.open(SHIPPED / TOKENIZER_FILE, engine.description.max_tokens, compiled=False)
    windows = [texts[start : start + WINDOW] for start in range(0, len(texts), WINDOW)]
    seconds = {"us_per_text": sum(_least(engine.read, window) for window in windows)}
    with mock.patch.dict(os.environ, {"TOKENIZERS_PARALLELISM": "false"}):
        seconds["us_per_text_in_the_tokenizers_library"] = sum(_least(library.read, window) for window in windows)
    figures = {name: 1e6 * value / len(texts) for name, value in seconds.items()}
    scoring = _least(engine.score, windows[0], rounds=2)
    return {**figures, "share_of_scoring": _least(engine.read, windows[0]) / scoring}


def _least(work: Callable[[Sequence[str]], object], texts: Sequence[str], rounds: int = ROUNDS) -> float:
    work(texts)
    laps = []
    for _ in range(rounds):
        began = time.process_time()
        work(texts)
        laps.append(time.process_time() - began)
    return min(laps)
