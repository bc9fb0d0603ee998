"""What a run leaves beside its checkpoint: its figures, and a record that lets it be repeated."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.data import Corpus, Example
from earlybell.inference.training.measures import accuracy, macro_f1
from earlybell.inference.training.optimise import all_logits

RECORD_FILE = "training.json"


def figures_of(
    model: ElbertForSequenceClassification, reader: Reader, corpus: Corpus, device: str, precision: str
) -> dict[str, Any]:
    """Accuracy per depth and macro-F1 at full depth on the dev slices and on what is only reported."""
    parts = {f"dev_{name}": [one for one in corpus.dev if one.source == name] for name in ("tfns", "sentfin")}
    parts |= {name: list(part) for name, part in corpus.report.items()}
    return {name: figures_on(part, model, reader, device, precision) for name, part in parts.items() if part}


def figures_on(
    part: Sequence[Example], model: ElbertForSequenceClassification, reader: Reader, device: str, precision: str
) -> dict[str, Any]:
    """The same on any labelled texts."""
    logits = all_logits(model, reader.read([one.text for one in part]), device=device, precision=precision)
    truth = np.array([model.config.labels.index(one.label) for one in part])
    answers = logits.argmax(-1)
    return {
        "accuracy": round(accuracy(truth, answers[:, -1]), 4),
        "macro_f1": round(macro_f1(truth, answers[:, -1], model.config.classes), 4),
        "accuracy_per_exit": [round(accuracy(truth, answers[:, exit_]), 4) for exit_ in range(answers.shape[1])],
        "n": len(part),
    }


def write_record(directory: Path, run: Any, hashes: dict[str, str], figures: dict[str, Any]) -> None:
    """``training.json`` beside a checkpoint: configuration, data hashes, seed, figures, versions."""
    record = {
        "run": type(run).__name__,
        "configuration": asdict(run),
        "data_sha256": hashes,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "figures": figures,
    }
    (directory / RECORD_FILE).write_text(json.dumps(record, indent=2, default=_named) + "\n", encoding="utf-8")


def _named(value: Any) -> str:
    """A path by its name alone: where it lay on one machine is nobody's business."""
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"a record holds plain values, not {type(value).__name__}")
