"""Scorers for the pool's tests, which do to their processes what a model might.

A text starts with a number, which comes back in `tokens`; the words after it say what the text does to the process that
scores it. The workers import this module, so it imports nothing heavy.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from earlybell.inference.pool.worker import MakeScorer
from earlybell.inference.predictions import ModelDescription, Predictions, Scorer, Timed, timed


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which the pool recognises by name."""


class Damaged(Predictions):
    """Predictions that the parent cannot unpickle."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _fail_to_unpickle, ()


def _fail_to_unpickle() -> None:
    raise EOFError("the pickle is damaged")


class Unreadable(str):
    """A text that the worker cannot unpickle."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _fail_to_unpickle, ()


#: A dial at which `OverlappingScorer` begins nothing.
REFUSED = -1.0


class ObedientScorer:
    """Does what its texts tell it to."""

    def __init__(self, device: str, revision: str, most_texts: int | None, fails_after: Path | None) -> None:
        labels = ("negative", "neutral", "positive")
        self.description = ModelDescription(
            "obedient", revision, labels, ("en",), 6, 128, 0.5, "dial=0.50", "none", device, arithmetic="none"
        )
        self._most_texts = most_texts
        self._fails_after = fails_after
        self._warm = False
        self._broken = False

    def warm_up(self) -> None:
        self._warm = True
        print("model loaded")

    def score(self, texts: Sequence[str], dial: float | None = None) -> Predictions:
        assert self._warm
        if dial == REFUSED:
            raise ValueError("no such dial")
        if self._fails_after is not None and any("break" in text for text in texts) and not self._fails_after.exists():
            self._fails_after.touch()
            self._broken = True
        if self._broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self._most_texts is not None and len(texts) > self._most_texts:
            raise OutOfMemoryError(f"{len(texts)} texts do not fit")
        numbers = [_obey(text) for text in texts]
        n = len(texts)
        kind = Damaged if any("damage" in text for text in texts) else Predictions
        return kind(
            np.full((n, 3), 1 / 3, np.float32),
            np.ones(n, np.int16),
            np.full(n, np.nan, np.float32),
            np.array(numbers, np.int32),
            np.array(numbers, np.int32),
            np.ones(n, np.float32),
        )


class OverlappingScorer(ObedientScorer):
    """Scores two windows at a time."""

    _threads = ThreadPoolExecutor(2)

    def begin(self, texts: Sequence[str], dial: float | None = None) -> Callable[[], Timed]:
        if dial == REFUSED:
            raise ValueError("no such dial")
        return self._threads.submit(timed, self.score, texts, dial).result


def overlapping() -> MakeScorer:
    return partial(OverlappingScorer, revision="first", most_texts=None, fails_after=None)


def obedient(revision: str = "first", *, most_texts: int | None = None, fails_after: Path | None = None) -> MakeScorer:
    return partial(ObedientScorer, revision=revision, most_texts=most_texts, fails_after=fails_after)


def obedient_of(device: str, checkpoint: Path) -> ObedientScorer:
    checkpoint.read_bytes()
    return ObedientScorer(device, "first", None, None)


def without_checkpoint(device: str) -> ObedientScorer:
    raise FileNotFoundError(f"no checkpoint for {device}:\n  /nowhere/model.safetensors")


def dies_while_loading(device: str) -> ObedientScorer:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError(device)


def never_ready(device: str) -> ObedientScorer:
    time.sleep(3600)
    raise AssertionError(device)


def _obey(text: str) -> int:
    number, *words = text.split()
    match words:
        case ["raise"]:
            raise ValueError(f"cannot read {number}")
        case ["memory"]:
            raise MemoryError
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["exit"]:
            os._exit(3)
        case ["hang"]:
            # PyDLL holds the GIL: native code that hangs and lets no other thread run.
            ctypes.PyDLL(None).sleep(3600)
        case ["wait", path]:
            # Report the start, then wait for permission to go on.
            Path(path, f"begun-{number}").touch()
            while not Path(path, f"go-{number}").exists():
                time.sleep(0.005)
        case ["stdout"]:
            sys.stdout.write("a print in a window\n")
        case ["frozen"]:
            return gc.get_freeze_count()
    return int(number) if number.isdigit() else 0


#: What a worker has no use for, and what would cost each of them seconds and megabytes.
UNUSED = {"aiokafka", "asyncio", "faust", "kafka", "pydantic", "sqlalchemy", "structlog", "typer"}
UNUSED |= {"torch", "transformers"}


def sparing(make_scorer: MakeScorer, device: str) -> Scorer:
    """Return the scorer after it has scored texts, or raise if by then anything unused has been imported."""
    scorer = make_scorer(device)
    scorer.warm_up()
    scorer.score(["Acme profit soars to a record", "Ærø A/S fyrer folk"])
    imported = sorted({name.partition(".")[0] for name in sys.modules} & UNUSED)
    if imported:
        raise RuntimeError(f"imported {', '.join(imported)}")
    return scorer
