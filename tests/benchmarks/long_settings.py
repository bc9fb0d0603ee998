"""The models, reviews and settings of `long_texts`: every exit's answers at each alpha, and a setting's cost.

A setting's answers are taken from those of every exit in int8, and are what the engine would answer. Its time is
estimated from the time of each depth, so thousands of settings can be compared before a few are measured.
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
from earlybell.inference.early_exit.confidence_window import exit_depths
from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import unsharpened
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.engine import Engine
from earlybell.inference.model.checkpoint import TOKENIZER_FILE, Checkpoint
from earlybell.inference.model.config import Config
from earlybell.inference.model.huggingface import read_pretrained
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.calibrate import Judgement, fit_temperature, judge
from earlybell.inference.training.data import DEV_SEED, data_directory, hash_file, is_held_out
from tests.benchmarks import engine_clock
from tests.benchmarks.every_exit import every_exit, uncalibrated

MODEL = Path(os.environ.get("EARLYBELL_LONG_MODEL", "runs/imdb12-pruned"))
PLAIN = Path(os.environ.get("EARLYBELL_LONG_PLAIN", "runs/imdb12-plain"))
TEST_TEXTS = int(os.environ.get("EARLYBELL_BENCH_LONG_TEXTS", "2500"))
ROUNDS = int(os.environ.get("EARLYBELL_BENCH_ROUNDS", "5"))
#: Texts per round, chosen so that both precisions' rounds take about as long.
SPEED_TEXTS = {"int8": 192, "bfloat16": 32}
PRECISIONS = tuple(SPEED_TEXTS)
MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Reviews:
    """Labelled texts."""

    texts: list[str]
    truth: NDArray[np.int64]  # (texts,) 0: negative, 1: positive


@dataclass(frozen=True, slots=True)
class ExitOutputs:
    """The answers of every exit to some texts at one alpha, and the time that each depth took."""

    probabilities: NDArray[np.float32]  # (texts, exits, C)
    seconds: NDArray[np.float64]  # (layers + 1,) per text; depth 0 is the embedding

    def answers(self, rule: ExitRule, first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the answers and exit depths under a rule, ``first`` being the first exit's depth: (texts,) each."""
        depths = exit_depths(torch.from_numpy(self.probabilities), rule, first).numpy()
        answers = self.probabilities[np.arange(len(depths)), depths - first].argmax(-1)
        return answers, depths


#: How the loss of accuracy is estimated: counted on the dev slice, or by the calibration's estimate, which adds two
#: standard errors.
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
    # On the dev slice, against the best model at full depth without pruning.
    lost: Losses = field(compare=False, hash=False)
    lost_by_exits: Losses = field(compare=False)  # against full depth at the same alpha
    seconds: float = field(compare=False)  # per text, estimated

    def as_dict(self) -> dict[str, Any]:
        """Return the setting as JSON values."""
        return {
            "model": self.model,
            "alpha": self.alpha,
            "threshold": self.rule.threshold,
            "window": f"{self.rule.window_rule} over {self.rule.window}, margin {self.rule.margin}"
            if self.rule.window_rule != "off"
            else "off",
        }


class MeasuredModel:
    """A model with an engine for each precision."""

    def __init__(self, directory: Path, engines: dict[str, Engine], config: Config) -> None:
        self.directory, self.engines, self.config = directory, engines, config
        self.tempering = unsharpened([1.0] * len(config.depths))
        self.on_dev: dict[float, ExitOutputs] = {}  # on the dev slice, in int8, by alpha
        # By precision and alpha: the seconds per text of each depth, (layers + 1,).
        self.seconds: dict[tuple[str, float], NDArray[np.float64]] = {}

    @classmethod
    def open(cls, directory: Path) -> MeasuredModel:
        """Load a fine-tuned model; it needs no calibration."""
        engines = {}
        for precision in PRECISIONS:
            config, weights = read_pretrained(directory)
            longest = min(MAX_TOKENS, config.positions)
            reader = Reader.open(directory / TOKENIZER_FILE, longest)
            calibration = uncalibrated(directory.name, len(config.depths), longest)
            checkpoint = Checkpoint(directory, config, weights, reader, calibration, revision="")
            engines[precision] = Engine(
                checkpoint, device="cpu", dial=None, precision=precision, threads=engine_clock.THREADS
            )
        return cls(directory, engines, config)

    def describe(self) -> dict[str, Any]:
        """Return the model's name, weights and shape as JSON values."""
        return {
            "name": self.directory.name,
            "weights_sha256": hash_file(self.directory / "model.safetensors")[:16],
            "layers": self.config.layers,
            "hidden": self.config.hidden,
        }

    def measure_dev(self, dev: Reviews, alpha: float) -> None:
        """Record every exit's answers on the dev slice at this alpha, and the time of each depth.

        The first call must be for alpha 1 (no pruning): it fits the temperatures.
        """
        if not self.on_dev:
            logits = np.log(self.outputs(dev.texts, 1.0).probabilities)
            temperatures = [fit_temperature(logits[:, exit_], dev.truth) for exit_ in range(logits.shape[1])]
            self.tempering = unsharpened(temperatures)
        self.on_dev[alpha] = self.outputs(dev.texts, alpha)
        for precision, count in SPEED_TEXTS.items():
            sample = dev.texts[:: max(1, len(dev.texts) // count)][:count]
            self.seconds[precision, alpha] = self.outputs(sample, alpha, precision).seconds

    def full_accuracy(self, dev: Reviews) -> float:
        """Return the accuracy on the dev slice, at full depth and without pruning."""
        return float((self.on_dev[1.0].probabilities[:, -1].argmax(-1) == dev.truth).mean())

    def outputs(self, texts: Sequence[str], alpha: float, precision: str = "int8") -> ExitOutputs:
        """Return every exit's answers to the texts."""
        engine = self.engines[precision]
        self._configure(engine, ExitRule(), alpha)
        probabilities, seconds = every_exit(engine.backend, engine.read(texts))
        return ExitOutputs(probabilities, seconds / len(texts))

    def engine_for(self, setting: Setting) -> Engine:
        """Return the engine of the setting's precision, configured for it."""
        engine = self.engines[setting.precision]
        self._configure(engine, setting.rule, setting.alpha)
        return engine

    def _configure(self, engine: Engine, rule: ExitRule, alpha: float) -> None:
        backend = engine.backend
        if isinstance(backend, Int8Backend):
            engine.backend = Int8Backend(
                backend.kernels, backend.weights, rule, self.tempering, Pruning(alpha), backend.batch_tokens
            )
        elif isinstance(backend, PaddedBackend):
            tensor = torch.from_numpy(self.tempering)
            engine.backend = replace(backend, rule=rule, pruning=Pruning(alpha), tempering=tensor)


def read_reviews(part: str) -> Reviews:
    """Return IMDB's test reviews, or the part of its train reviews that was held out from training."""
    with lzma.open(data_directory() / "long" / f"imdb_{part}.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    reviews = [(str(row["text"]).replace("<br />", " "), int(row["label"] == "pos")) for row in rows]
    if part == "train":
        reviews = [review for review in reviews if is_held_out(review[0], DEV_SEED)]
    else:
        reviews = reviews[:TEST_TEXTS]
    return Reviews([text for text, _ in reviews], np.array([label for _, label in reviews], np.int64))


def candidates(
    name: str,
    model: MeasuredModel,
    outputs_by_alpha: Mapping[float, ExitOutputs],
    truth: NDArray[np.int64],
    rules: Sequence[ExitRule],
    reference: float,
) -> Iterator[Setting]:
    """Yield all settings of a model, with the accuracy that each loses and its estimated time.

    The loss is measured against the model's own full depth without pruning, plus the model's gap to ``reference``.

    Parameters
    ----------
    outputs_by_alpha
        Every exit's answers to the texts that ``truth`` labels.
    reference
        The accuracy of the best model at full depth without pruning.
    """
    first = model.config.depths.start
    unpruned = outputs_by_alpha[1.0].probabilities[:, -1]
    gap = max(0.0, reference - float((unpruned.argmax(-1) == truth).mean()))
    for alpha, outputs in outputs_by_alpha.items():
        for rule in rules:
            answers, depths = outputs.answers(rule, first)
            lost, lost_by_exits = (
                _losses(judge(rule, outputs.probabilities, full, truth, first), full, answers, truth)
                for full in (unpruned, outputs.probabilities[:, -1])
            )
            lost = {estimate: loss + gap for estimate, loss in lost.items()}
            for precision in PRECISIONS:
                seconds = model.seconds[precision, alpha]
                running = np.array([(depths >= depth).mean() for depth in range(len(seconds))])
                yield Setting(name, precision, alpha, rule, lost, lost_by_exits, float(running @ seconds))


def fastest(settings: Iterable[Setting], budget: float, loss: Callable[[Setting], float]) -> Setting | None:
    """Return the setting with the least estimated time that loses no more than the budget; None if there is none.

    Every slower threshold of the same family must be within the budget too: the luckiest of many would be noise.
    """
    families = defaultdict(list)
    for setting in settings:
        families[setting.model, setting.alpha, replace(setting.rule, threshold=0.0)].append(setting)
    within = []
    for family in families.values():
        slowest_first = sorted(family, key=lambda setting: -setting.seconds)
        within += list(takewhile(lambda setting: loss(setting) <= budget, slowest_first))[-1:]
    return min(within, key=lambda setting: setting.seconds, default=None)


def _losses(
    judged: Judgement, full: NDArray[np.float32], answers: NDArray[np.int64], truth: NDArray[np.int64]
) -> Losses:
    counted = float((full.argmax(-1) == truth).mean() - (answers == truth).mean())
    return {"counted": counted, "cautious": judged.lost}


def log_progress(step: str) -> None:
    """Print the time and the current step."""
    print(f"  {time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)
