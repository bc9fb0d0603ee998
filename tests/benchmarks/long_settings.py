"""The models, reviews and settings of `long_texts`: what each exit says under each alpha, and what a setting costs.

A setting's answers are computed from what every exit says in int8, which is what the engine would answer; its time is
estimated from the time of each depth, so that thousands of settings can be compared before a few are measured.
"""

from __future__ import annotations

import json
import lzma
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from earlybell.inference.backends.int8 import Int8Backend
from earlybell.inference.backends.padded import PaddedBackend
from earlybell.inference.early_exit.confidence_window import ExitRule, exit_depths
from earlybell.inference.engine import Engine
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import TOKENIZER_FILE, Checkpoint
from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.calibrate import Judgement, fit_temperature, judge
from earlybell.inference.training.data import DEV_SEED, data_directory, hash_file, is_held_out
from tests.benchmarks import engine_clock
from tests.benchmarks.every_exit import every_exit

MODEL = Path(os.environ.get("EARLYBELL_LONG_MODEL", "runs/imdb12-pruned"))
PLAIN = Path(os.environ.get("EARLYBELL_LONG_PLAIN", "runs/imdb12-plain"))
TEST_TEXTS = int(os.environ.get("EARLYBELL_BENCH_LONG_TEXTS", "2500"))
ROUNDS = int(os.environ.get("EARLYBELL_BENCH_ROUNDS", "5"))
#: Texts of a round, so that a round of each precision takes about as long.
SPEED_TEXTS = {"int8": 192, "bfloat16": 32}
PRECISIONS = tuple(SPEED_TEXTS)
MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Reviews:
    """Labelled texts; ``truth`` indexes into negative, positive."""

    texts: list[str]
    truth: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What every exit says of some texts under one alpha, and the seconds that each depth took."""

    probabilities: NDArray[np.float32]  # (texts, exits, C)
    seconds: NDArray[np.float64]  # (layers + 1,) a text; depth 0 is reading the embedding

    def under(self, rule: ExitRule, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(texts,) answers and exit depths."""
        depths = exit_depths(torch.from_numpy(self.probabilities), rule, first).numpy()
        answers = self.probabilities[np.arange(len(depths)), depths - first].argmax(-1)
        return answers, depths


#: How much accuracy a setting loses: as counted on the dev slice, or by the calibration's estimate, which leaves two
#: standard errors to spare.
Estimate = Literal["counted", "cautious"]
ESTIMATES: tuple[Estimate, ...] = ("counted", "cautious")
Losses = dict[Estimate, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run a model."""

    model: str
    precision: str
    alpha: float
    rule: ExitRule
    lost: Losses = field(
        compare=False, hash=False
    )  # on the dev slice, against full depth of the best model without pruning
    lost_by_exits: Losses = field(compare=False)  # against full depth with the same alpha
    seconds: float = field(compare=False)  # a text, estimated

    def described(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "alpha": self.alpha,
            "threshold": self.rule.threshold,
            "window": f"{self.rule.window_rule} over {self.rule.window}, margin {self.rule.margin}"
            if self.rule.window_rule != "off"
            else "off",
        }


class Subject:
    """A model with an engine for each precision."""

    def __init__(self, directory: Path, engines: dict[str, Engine], config: Config) -> None:
        self.directory, self.engines, self.config = directory, engines, config
        self.temperatures = np.ones(len(config.depths), np.float32)
        self.seen: dict[float, Seen] = {}  # on the dev slice, in int8, by alpha
        self.seconds: dict[tuple[str, float], NDArray[np.float64]] = {}  # a text and depth, by precision and alpha

    @classmethod
    def open(cls, directory: Path) -> Subject:
        """Load a fine-tuned model as training leaves it; it needs no calibration."""
        engines = {}
        for precision in PRECISIONS:
            model = ElbertForSequenceClassification.from_pretrained(directory).float().eval()
            config = model.config
            longest = min(MAX_TOKENS, config.positions)
            reader = Reader.open(directory / TOKENIZER_FILE, longest)
            full = Calibration.uncalibrated(directory.name, len(config.depths), longest)
            checkpoint = Checkpoint(directory, model, reader, full, revision="")
            engines[precision] = Engine(
                checkpoint, device="cpu", dial=None, precision=precision, threads=engine_clock.THREADS
            )
        return cls(directory, engines, config)

    def described(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.directory.name,
            "weights_sha256": hash_file(self.directory / "model.safetensors")[:16],
            "layers": self.config.layers,
            "hidden": self.config.hidden,
        }

    def look(self, dev: Reviews, alpha: float) -> None:
        """Note what every exit says of the dev slice under an alpha, and how long each depth takes.

        Temperatures are found at the first look, which must be without pruning.
        """
        if not self.seen:
            whole = np.log(self.exits_of(dev.texts, 1.0).probabilities)
            found = [fit_temperature(whole[:, place], dev.truth) for place in range(whole.shape[1])]
            self.temperatures = np.array(found, np.float32)
        self.seen[alpha] = self.exits_of(dev.texts, alpha)
        for precision, count in SPEED_TEXTS.items():
            some = dev.texts[:: max(1, len(dev.texts) // count)][:count]
            self.seconds[precision, alpha] = self.exits_of(some, alpha, precision).seconds

    def full_accuracy(self, dev: Reviews) -> float:
        """On the dev slice, at full depth and without pruning."""
        return float((self.seen[1.0].probabilities[:, -1].argmax(-1) == dev.truth).mean())

    def exits_of(self, texts: Sequence[str], alpha: float, precision: str = "int8") -> Seen:
        """What every exit says of the texts."""
        engine = self.engines[precision]
        self._tune(engine, ExitRule(), alpha)
        probabilities, seconds = every_exit(engine.backend, engine.read(texts))
        return Seen(probabilities, seconds / len(texts))

    def tuned(self, setting: Setting) -> Engine:
        """The engine of a setting."""
        engine = self.engines[setting.precision]
        self._tune(engine, setting.rule, setting.alpha)
        return engine

    def _tune(self, engine: Engine, rule: ExitRule, alpha: float) -> None:
        backend = engine.backend
        if isinstance(backend, Int8Backend):
            engine.backend = Int8Backend(
                backend.kernels, backend.weights, rule, self.temperatures, alpha, backend.batch_tokens
            )
        elif isinstance(backend, PaddedBackend):
            tensor = torch.from_numpy(self.temperatures)
            engine.backend = replace(backend, rule=rule, alpha=alpha, temperatures=tensor)


def read_reviews(part: str) -> Reviews:
    """IMDB's test reviews, or of its train reviews those that were set aside and never trained on."""
    with lzma.open(data_directory() / "long" / f"imdb_{part}.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = [(str(row["text"]).replace("<br />", " "), int(row["label"] == "pos")) for row in rows]
    found = [one for one in found if is_held_out(one[0], DEV_SEED)] if part == "train" else found[:TEST_TEXTS]
    return Reviews([text for text, _ in found], np.array([label for _, label in found], np.int64))


def candidates(
    name: str,
    subject: Subject,
    seen_under: Mapping[float, Seen],
    truth: NDArray[np.int64],
    rules: Sequence[ExitRule],
    reference: float,
) -> Iterator[Setting]:
    """All settings of a model with what they lose and how long they take.

    What a setting loses is taken against the model's own full depth without pruning; what the model itself lacks
    against ``reference``, the accuracy of the best one, comes on top.

    Parameters
    ----------
    seen_under
        What was seen of the texts that ``truth`` labels, by alpha.
    """
    first = subject.config.depths.start
    whole = seen_under[1.0].probabilities[:, -1]
    lacks = max(0.0, reference - float((whole.argmax(-1) == truth).mean()))
    for alpha, seen in seen_under.items():
        for rule in rules:
            answers, depths = seen.under(rule, first)
            lost, by_exits = (
                _losses(judge(rule, seen.probabilities, full, truth, first), full, answers, truth)
                for full in (whole, seen.probabilities[:, -1])
            )
            lost = {name: found + lacks for name, found in lost.items()}
            for precision in PRECISIONS:
                each = subject.seconds[precision, alpha]
                running = np.array([(depths >= depth).mean() for depth in range(len(each))])
                yield Setting(name, precision, alpha, rule, lost, by_exits, float(running @ each))


def fastest(settings: Iterable[Setting], budget: float, loss: Callable[[Setting], float]) -> Setting | None:
    """The one that takes least time, by estimate, and loses no more than the budget; None if there is none.

    So must every slower threshold of its kind: the luckiest of many would be noise.
    """
    kinds = defaultdict(list)
    for one in settings:
        kinds[one.model, one.alpha, replace(one.rule, threshold=0.0)].append(one)
    within = []
    for kind in kinds.values():
        slower_first = sorted(kind, key=lambda one: -one.seconds)
        within += list(takewhile(lambda one: loss(one) <= budget, slower_first))[-1:]
    return min(within, key=lambda one: one.seconds, default=None)


def _losses(
    judged: Judgement, full: NDArray[np.float32], answers: NDArray[np.int64], truth: NDArray[np.int64]
) -> Losses:
    counted = float((full.argmax(-1) == truth).mean() - (answers == truth).mean())
    return {"counted": counted, "cautious": judged.lost}


def say(what: str) -> None:
    """A sign of life: all of it takes a while."""
    print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
