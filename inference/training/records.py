"""The record that a run writes beside its checkpoint: its figures, and what it takes to repeat it."""

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


def corpus_figures(
    model: ElbertForSequenceClassification, reader: Reader, corpus: Corpus, device: str, precision: str
) -> dict[str, Any]:
    """Return accuracy per exit and macro-F1 at full depth on each dev slice and report set."""
    parts = {
        f"dev_{name}": [example for example in corpus.dev if example.source == name] for name in ("tfns", "sentfin")
    }
    parts |= {name: list(part) for name, part in corpus.report.items()}
    return {name: figures_on(part, model, reader, device, precision) for name, part in parts.items() if part}


def figures_on(
    examples: Sequence[Example], model: ElbertForSequenceClassification, reader: Reader, device: str, precision: str
) -> dict[str, Any]:
    """Return accuracy per exit and macro-F1 at full depth on these texts."""
    logits = all_logits(model, reader.read([example.text for example in examples]), device=device, precision=precision)
    truth = np.array([model.config.labels.index(example.label) for example in examples])
    answers = logits.argmax(-1)
    return {
        "accuracy": round(accuracy(truth, answers[:, -1]), 4),
        "macro_f1": round(macro_f1(truth, answers[:, -1], model.config.classes), 4),
        "accuracy_per_exit": [round(accuracy(truth, answers[:, exit_]), 4) for exit_ in range(answers.shape[1])],
        "n": len(examples),
    }


def write_record(directory: Path, run: Any, hashes: dict[str, str], figures: dict[str, Any]) -> None:
    """Write ``training.json`` beside a checkpoint: configuration, data hashes, seed, figures, versions."""
    record = {
        "run": type(run).__name__,
        "configuration": asdict(run),
        "data_sha256": hashes,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "figures": figures,
    }
    (directory / RECORD_FILE).write_text(json.dumps(record, indent=2, default=_to_json) + "\n", encoding="utf-8")


def _to_json(value: Any) -> str:
    """Reduce a path to its name: a record must not carry a machine's directories."""
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"a record cannot hold a {type(value).__name__}")
