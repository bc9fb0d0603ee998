"""`earlybell distil`: trains a student, whose depths may share weights, on its teachers' answers.

The student starts from a teacher (a group of weights is the mean of the layers it replaces) and reads unlabelled
headlines as well as the labelled texts; every exit learns the teachers' answers. With ``exits_only`` a fine-tuned
model teaches only its own early exits, as in FastBERT (arXiv 2004.02178).
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training.company_news import announcements
from earlybell.inference.training.data import LABELS, hash_file, read_corpus, read_unlabelled
from earlybell.inference.training.losses import distillation
from earlybell.inference.training.measures import softmax
from earlybell.inference.training.optimise import Schedule, only_early_exits, optimise, pad
from earlybell.inference.training.records import corpus_figures, write_record
from earlybell.inference.training.teaching import teacher_logits
from earlybell.inference.training.vocabulary import frequent_pieces, prune_embedding, pruned_tokenizer

#: Label smoothing of the generated announcements.
ANNOUNCEMENT_SMOOTHING = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """One run of `distil`."""

    data: Path
    out: Path
    teachers: tuple[Path, ...]
    start: Path  # directory of the model to start from, with its tokenizer.json
    cache: Path  # directory of the teachers' logits
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the student's `Config`, such as groups=1
    vocabulary: int = 0  # word pieces to keep, the most frequent in the texts; 0: all
    unlabelled: int = 60_000
    labelled_repeats: int = 3
    announcements: int = 0  # generated company news (`company_news`), learned from labels alone
    temperature: float = 2.0
    hard_weight: float = 0.5
    exit_weights: tuple[float, ...] = ()  # one per exit; none: all equal
    exits_only: bool = False  # the start's encoder, last exit and shape are kept
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=1, learning_rate=3e-4, batch_texts=128))


def distil(run: Distillation) -> dict[str, Any]:
    """Train a student, write it with its record to ``run.out`` and return the record's figures.

    Run again after an interruption, it resumes; the same seed on the same machine gives the same figures.

    Raises
    ------
    DataError
        If the data is missing.
    CheckpointError
        If a teacher or the start cannot be used.
    """
    corpus = read_corpus(run.data)
    torch.manual_seed(run.schedule.seed)
    changes: dict[str, Any] = {"labels": LABELS, "shared_head": False}
    # Frozen weights run as they will be served, without dropout.
    changes |= {"dropout": 0.0} if run.exits_only else {"head": "cls_mean", "head_hidden": 128, "depth_zero": True}
    model = ElbertForSequenceClassification.from_pretrained(run.start, **(changes | run.changes))
    last = f"exits.{len(model.exits) - 1}."
    untrained = [name for name in model.new_weights if not name.startswith("exit") or name.startswith(last)]
    if run.exits_only and untrained:
        raise CheckpointError(f"{run.start} lacks {untrained[0]}: --exits-only needs a fine-tuned model")
    held_out = [*corpus.dev, *(example for part in corpus.report.values() for example in part)]
    unlabelled_file = run.data / "unlabelled_headlines.txt.xz"
    unlabelled = read_unlabelled(unlabelled_file, run.unlabelled, run.schedule.seed, held_out)
    texts = unlabelled + [example.text for example in corpus.train]
    run.out.mkdir(parents=True, exist_ok=True)
    tokenizer_file = run.start / "tokenizer.json"
    if run.vocabulary:
        full_reader = Reader.open(tokenizer_file, model.config.positions)
        labelled = [example.text for example in corpus.train]
        kept = frequent_pieces(full_reader, unlabelled, run.vocabulary, always=labelled)
        model = prune_embedding(model, kept)
        pruned_tokenizer(tokenizer_file, kept).save(str(run.out / "tokenizer.json"))
    else:
        shutil.copyfile(tokenizer_file, run.out / "tokenizer.json")
    reader = Reader.open(run.out / "tokenizer.json", model.config.positions)
    device, precision = run.schedule.device, run.schedule.precision
    soft = np.mean(
        [
            softmax(teacher_logits(teacher, texts, run.cache, device=device, precision=precision) / run.temperature)
            for teacher in run.teachers
        ],
        axis=0,
    )
    order = list(range(len(unlabelled))) + run.labelled_repeats * list(range(len(unlabelled), len(texts)))
    hard = [-100] * len(unlabelled) + [LABELS.index(example.label) for example in corpus.train]
    if run.announcements:
        # Learned from their labels: the teachers have seen nothing like them and get them wrong.
        generated = announcements(run.announcements, run.schedule.seed)
        answers = [LABELS.index(example.label) for example in generated]
        smoothed = np.eye(len(LABELS), dtype=np.float32)[answers] * (1 - ANNOUNCEMENT_SMOOTHING)
        smoothed += ANNOUNCEMENT_SMOOTHING / len(LABELS)
        order += range(len(texts), len(texts) + len(generated))
        texts, hard, soft = (
            texts + [example.text for example in generated],
            hard + answers,
            np.concatenate([soft, smoothed]),
        )
    tokenized = reader.read(texts)
    rows = [tokenized[index] for index in order]
    targets = torch.from_numpy(soft[order]).to(device)
    truth = torch.tensor([hard[index] for index in order], device=device)
    exits = len(model.config.depths)
    weights = torch.tensor(run.exit_weights or [1.0] * exits, device=device)

    def loss_of(batch: list[int]) -> Tensor:
        ids, mask = pad([rows[index] for index in batch], model.config.pad_id, device)
        return distillation(model(ids, mask), targets[batch], truth[batch], weights, run.temperature, run.hard_weight)

    lengths, state_file = [len(row) for row in rows], run.out / "state.pt"
    with only_early_exits(model) if run.exits_only else nullcontext():
        seconds = optimise(model, lengths, loss_of, run.schedule, state_file=state_file, title="distilling")
    model.save_pretrained(run.out)
    figures = {
        "seconds": round(seconds, 1),
        "texts": len(rows),
        **corpus_figures(model, reader, corpus, device, precision),
    }
    write_record(run.out, run, corpus.hashes | {unlabelled_file.name: hash_file(unlabelled_file)}, figures)
    return figures
