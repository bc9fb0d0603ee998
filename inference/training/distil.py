"""`earlybell distil`: teachers' knowledge into a student whose depths share their weights.

The student starts from a teacher (each group is the mean of the layers that it stands for), reads unlabelled
headlines beside the labelled texts, and at every exit learns what the teachers say (algorithms, section 7). Or, as
in FastBERT (arXiv 2004.02178), a fine-tuned model teaches nothing but its own early exits.
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
from earlybell.inference.model.huggingface import CheckpointError
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.company_news import announcements
from earlybell.inference.training.data import LABELS, hash_file, read_corpus, read_unlabelled
from earlybell.inference.training.losses import distillation
from earlybell.inference.training.measures import softmax
from earlybell.inference.training.optimise import Schedule, early_exits_alone, optimise, padded
from earlybell.inference.training.records import figures_of, write_record
from earlybell.inference.training.teaching import teacher_logits
from earlybell.inference.training.vocabulary import frequent_pieces, prune_embedding, pruned_tokenizer

#: How much of the answer to a made-up announcement is left to the other classes.
MADE_DOUBT = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """One run of `distil`."""

    data: Path
    out: Path
    teachers: tuple[Path, ...]
    start: Path  # directory of the model whose weights the student starts from, with its tokenizer.json
    cache: Path  # where teachers' logits are kept
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the student's `Config`, such as groups=1
    vocabulary: int = 0  # word pieces to keep, the most frequent in the texts; 0: all
    unlabelled: int = 60_000
    labelled_repeats: int = 3
    announcements: int = 0  # made-up company news (`company_news`), learned from their labels alone
    temperature: float = 2.0
    hard_weight: float = 0.5
    exit_weights: tuple[float, ...] = ()  # one an exit; none: all equal
    exits_only: bool = False  # encoder and last exit stay as the start has them; so does its shape
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=1, learning_rate=3e-4, batch_texts=128))


def distil(run: Distillation) -> dict[str, Any]:
    """Train a student, write it with its record to ``run.out`` and return the record's figures.

    Running it again after an interruption goes on where it stopped; with the same seed on the same machine it gives
    the same figures.
    """
    corpus = read_corpus(run.data)
    torch.manual_seed(run.schedule.seed)
    changes: dict[str, Any] = {"labels": LABELS, "shared_head": False}
    # What is frozen runs as it will be served: without dropout.
    changes |= {"dropout": 0.0} if run.exits_only else {"head": "cls_mean", "head_hidden": 128, "depth_zero": True}
    model = ElbertForSequenceClassification.from_pretrained(run.start, **(changes | run.changes))
    last = f"exits.{len(model.exits) - 1}."
    lacking = [name for name in model.new_weights if not name.startswith("exit") or name.startswith(last)]
    if run.exits_only and lacking:
        raise CheckpointError(f"{run.start} lacks {lacking[0]}: exits alone can only be taught to a fine-tuned model")
    aside = [*corpus.dev, *(one for part in corpus.report.values() for one in part)]
    unlabelled_file = run.data / "unlabelled_headlines.txt.xz"
    unlabelled = read_unlabelled(unlabelled_file, run.unlabelled, run.schedule.seed, aside)
    texts = unlabelled + [one.text for one in corpus.train]
    run.out.mkdir(parents=True, exist_ok=True)
    tokenizer_file = run.start / "tokenizer.json"
    if run.vocabulary:
        whole = Reader.open(tokenizer_file, model.config.positions)
        kept = frequent_pieces(whole, unlabelled, run.vocabulary, always=[one.text for one in corpus.train])
        model = prune_embedding(model, kept)
        pruned_tokenizer(tokenizer_file, kept).save(str(run.out / "tokenizer.json"))
    else:
        shutil.copyfile(tokenizer_file, run.out / "tokenizer.json")
    reader = Reader.open(run.out / "tokenizer.json", model.config.positions)
    device, precision = run.schedule.device, run.schedule.precision
    soft = np.mean(
        [
            softmax(teacher_logits(one, texts, run.cache, device=device, precision=precision) / run.temperature)
            for one in run.teachers
        ],
        axis=0,
    )
    repeated = list(range(len(unlabelled))) + run.labelled_repeats * list(range(len(unlabelled), len(texts)))
    hard = [-100] * len(unlabelled) + [LABELS.index(one.label) for one in corpus.train]
    if run.announcements:
        # The teachers have not seen the like; what they say of it is what the student shall not learn.
        made = announcements(run.announcements, run.schedule.seed)
        answers = [LABELS.index(one.label) for one in made]
        sure = np.eye(len(LABELS), dtype=np.float32)[answers] * (1 - MADE_DOUBT) + MADE_DOUBT / len(LABELS)
        repeated += range(len(texts), len(texts) + len(made))
        texts, hard, soft = texts + [one.text for one in made], hard + answers, np.concatenate([soft, sure])
    read = reader.read(texts)
    rows = [read[index] for index in repeated]
    targets = torch.from_numpy(soft[repeated]).to(device)
    truth = torch.tensor([hard[index] for index in repeated], device=device)
    exits = len(model.config.depths)
    weights = torch.tensor(run.exit_weights or [1.0] * exits, device=device)

    def loss_of(batch: list[int]) -> Tensor:
        ids, live = padded([rows[index] for index in batch], model.config.pad_id, device)
        return distillation(model(ids, live), targets[batch], truth[batch], weights, run.temperature, run.hard_weight)

    lengths, state_file = [len(row) for row in rows], run.out / "state.pt"
    with early_exits_alone(model) if run.exits_only else nullcontext():
        seconds = optimise(model, lengths, loss_of, run.schedule, state_file=state_file, title="distilling")
    model.save_pretrained(run.out)
    figures = {"seconds": round(seconds, 1), "texts": len(rows), **figures_of(model, reader, corpus, device, precision)}
    write_record(run.out, run, corpus.hashes | {unlabelled_file.name: hash_file(unlabelled_file)}, figures)
    return figures
