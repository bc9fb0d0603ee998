"""`earlybell distil`: teachers' knowledge into a student whose depths share their weights.

The student starts from a teacher (each group is the mean of the layers that it stands for), reads unlabelled
headlines beside the labelled texts, and at every exit learns what the teachers say (algorithms, section 7).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.elbert import ElbertForSequenceClassification
from inference.reading import Reader
from inference.training.data import LABELS, Corpus, hash_file, read_corpus, read_unlabelled
from inference.training.losses import distillation
from inference.training.measures import accuracy, macro_f1, softmax
from inference.training.optimise import Schedule, all_logits, optimise, padded
from inference.training.teaching import teacher_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """One run of `distil`."""

    data: Path
    out: Path
    teachers: tuple[Path, ...]
    start: Path  # directory of the model whose weights the student starts from, with its tokenizer.json
    cache: Path  # where teachers' logits are kept
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the student's `Config`, such as groups=1
    unlabelled: int = 60_000
    labelled_repeats: int = 3
    temperature: float = 2.0
    hard_weight: float = 0.5
    exit_weights: tuple[float, ...] = ()  # one an exit; none: all equal
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=1, learning_rate=3e-4, batch_texts=128))


def distil(run: Distillation) -> dict[str, Any]:
    """Train a student, write it with its record to ``run.out`` and return the record's figures.

    Running it again after an interruption goes on where it stopped; with the same seed on the same machine it gives
    the same figures.
    """
    corpus = read_corpus(run.data)
    torch.manual_seed(run.schedule.seed)
    changes = {"labels": LABELS, "head": "cls_mean", "head_hidden": 128, "shared_head": False, "depth_zero": True}
    model = ElbertForSequenceClassification.from_pretrained(run.start, **(changes | run.changes))
    reader = Reader.open(run.start / "tokenizer.json", model.config.positions)
    aside = [*corpus.dev, *(one for part in corpus.report.values() for one in part)]
    unlabelled_file = run.data / "unlabelled_headlines.txt.xz"
    unlabelled = read_unlabelled(unlabelled_file, run.unlabelled, run.schedule.seed, aside)
    texts = unlabelled + [one.text for one in corpus.train]
    device, precision = run.schedule.device, run.schedule.precision
    soft = np.mean(
        [
            softmax(teacher_logits(one, texts, run.cache, device=device, precision=precision) / run.temperature)
            for one in run.teachers
        ],
        axis=0,
    )
    repeated = list(range(len(unlabelled))) + run.labelled_repeats * list(range(len(unlabelled), len(texts)))
    read = reader.read(texts)
    rows = [read[index] for index in repeated]
    targets = torch.from_numpy(soft[repeated]).to(device)
    hard = [-100] * len(unlabelled) + [LABELS.index(one.label) for one in corpus.train]
    truth = torch.tensor([hard[index] for index in repeated], device=device)
    exits = len(model.config.depths)
    weights = torch.tensor(run.exit_weights or [1.0] * exits, device=device)

    def loss_of(batch: list[int]) -> Tensor:
        ids, live = padded([rows[index] for index in batch], model.config.pad_id, device)
        return distillation(model(ids, live), targets[batch], truth[batch], weights, run.temperature, run.hard_weight)

    run.out.mkdir(parents=True, exist_ok=True)
    seconds = optimise(
        model, [len(row) for row in rows], loss_of, run.schedule, state_file=run.out / "state.pt", title="distilling"
    )
    model.save_pretrained(run.out)
    shutil.copyfile(run.start / "tokenizer.json", run.out / "tokenizer.json")
    figures = {"seconds": round(seconds, 1), "texts": len(rows), **figures_of(model, reader, corpus, device, precision)}
    write_record(run.out, run, corpus.hashes | {unlabelled_file.name: hash_file(unlabelled_file)}, figures)
    return figures


def figures_of(
    model: ElbertForSequenceClassification, reader: Reader, corpus: Corpus, device: str, precision: str
) -> dict[str, Any]:
    """Accuracy per depth and macro-F1 at full depth on the dev slices and on what is only reported."""
    parts = {f"dev_{name}": [one for one in corpus.dev if one.source == name] for name in ("tfns", "sentfin")}
    parts |= {name: list(part) for name, part in corpus.report.items()}
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        if not part:
            continue
        logits = all_logits(model, reader.read([one.text for one in part]), device=device, precision=precision)
        truth = np.array([model.config.labels.index(one.label) for one in part])
        answers = logits.argmax(-1)
        figures[name] = {
            "accuracy": round(accuracy(truth, answers[:, -1]), 4),
            "macro_f1": round(macro_f1(truth, answers[:, -1], model.config.classes), 4),
            "accuracy_per_exit": [round(accuracy(truth, answers[:, exit_]), 4) for exit_ in range(answers.shape[1])],
            "n": len(part),
        }
    return figures


def write_record(directory: Path, run: Any, hashes: dict[str, str], figures: dict[str, Any]) -> None:
    """``training.json`` beside a checkpoint: configuration, data hashes, seed, figures, versions."""
    record = {
        "run": type(run).__name__,
        "configuration": asdict(run),
        "data_sha256": hashes,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "figures": figures,
    }
    (directory / "training.json").write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
