"""`earlybell distil`: trains a student, whose depths may share weights, on its teachers' answers.

The student starts from a teacher (a group of weights is the mean of the layers it replaces) and reads unlabelled
headlines as well as the labelled texts; every exit learns the teachers' answers. With ``exits_only`` a fine-tuned
model teaches only its own early exits, as in FastBERT (arXiv 2004.02178).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training.company_news import announcements
from earlybell.inference.training.data import (
    LABELS,
    POSTS,
    UNLABELLED,
    Example,
    hash_file,
    read_corpus,
    read_posts,
    read_unlabelled,
)
from earlybell.inference.training.judgement.by_reading import labelled_by_reading
from earlybell.inference.training.judgement.grammar import sentences
from earlybell.inference.training.judgement.mining import mine
from earlybell.inference.training.judgement.social import GLAD, PLAIN, SORRY
from earlybell.inference.training.labelled import sample
from earlybell.inference.training.losses import distillation
from earlybell.inference.training.measures import softmax
from earlybell.inference.training.optimise import Schedule, only_early_exits, optimise, pad
from earlybell.inference.training.records import corpus_figures, write_record
from earlybell.inference.training.teaching import teacher_logits
from earlybell.inference.training.vocabulary import (
    frequent_pieces,
    prune_embedding,
    pruned_tokenizer,
    replace_pieces,
)


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
    posts: int = 0  # tweets without labels
    labelled_repeats: int = 3
    labelled: int = 0  # labelled texts to read, sampled by the seed; 0: all
    announcements: int = 0  # generated company news (`company_news`), learned from labels alone
    constructed: int = 0  # sentences of the grammar (`judgement.grammar`), likewise
    mined: int = 0  # headlines that a rule labels (`judgement.mining`), likewise
    by_reading: int = 0  # headlines that a reader labelled (`judgement.by_reading`), likewise
    smoothing: float = 0.15  # of certain labels
    taught: float = 0.0  # share of the teachers' answers in what is learned from texts with certain labels
    emoji: bool = False  # give emoji pieces of their own in the vocabulary
    temperature: float = 2.0
    hard_weight: float = 0.5
    opposite_weight: float = 0.0  # of the loss that keeps labelled texts from the opposite answer
    exit_weights: tuple[float, ...] = ()  # one per exit; none: all equal
    exits_only: bool = False  # the start's encoder, last exit and shape are kept
    texts_seed: int | None = None  # draws the texts; None: the schedule's
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=1, learning_rate=3e-4, batch_texts=128))

    @property
    def drawn_by(self) -> int:
        """The seed that draws the texts; the schedule's orders them and draws the weights of new heads."""
        return self.schedule.seed if self.texts_seed is None else self.texts_seed


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
    exits = len(model.config.depths)
    if len(run.exit_weights) not in (0, exits):
        raise CheckpointError(f"{len(run.exit_weights)} times --exit-weight for a model with {exits} exits")
    held_out = corpus.held_out
    unlabelled_file = run.data / UNLABELLED
    unlabelled = read_unlabelled(unlabelled_file, run.unlabelled, run.drawn_by, held_out)
    read_files = [unlabelled_file]
    if run.posts:
        unlabelled += read_posts(run.data / POSTS, run.posts, run.drawn_by, held_out)
        read_files.append(run.data / POSTS)
    labelled = sample(corpus.train, run.labelled, run.drawn_by)
    texts = unlabelled + [example.text for example in labelled]
    run.out.mkdir(parents=True, exist_ok=True)
    model = _write_tokenizer(run, model, unlabelled, [example.text for example in corpus.train])
    reader = Reader.open(run.out / "tokenizer.json", model.config.positions, figures=model.config.figures)
    device, precision = run.schedule.device, run.schedule.precision
    soft = _answers(run, texts)
    order = list(range(len(unlabelled))) + run.labelled_repeats * list(range(len(unlabelled), len(texts)))
    hard = [-100] * len(unlabelled) + [LABELS.index(example.label) for example in labelled]
    certain = _certain(run, unlabelled_file, held_out)
    if certain:
        # By their labels: teachers that have seen nothing like them get them wrong.
        answers = [LABELS.index(example.label) for example in certain]
        smoothed = np.eye(len(LABELS), dtype=np.float32)[answers] * (1 - run.smoothing) + run.smoothing / len(LABELS)
        if run.taught:
            smoothed += run.taught * (_answers(run, [example.text for example in certain]) - smoothed)
        order += range(len(texts), len(texts) + len(certain))
        texts, hard, soft = (
            texts + [example.text for example in certain],
            hard + answers,
            np.concatenate([soft, smoothed]),
        )
    tokenized = reader.read(texts)
    rows = [tokenized[index] for index in order]
    targets = torch.from_numpy(soft[order]).to(device)
    truth = torch.tensor([hard[index] for index in order], device=device)
    weights = torch.tensor(run.exit_weights or [1.0] * exits, device=device)

    def loss_of(batch: list[int]) -> Tensor:
        ids, mask = pad([rows[index] for index in batch], model.config.pad_id, device)
        return distillation(
            model(ids, mask), targets[batch], truth[batch], weights, run.temperature, run.hard_weight,
            run.opposite_weight,
        )  # fmt: skip

    lengths, state_file = [len(row) for row in rows], run.out / "state.pt"
    with only_early_exits(model) if run.exits_only else nullcontext():
        seconds = optimise(model, lengths, loss_of, run.schedule, state_file=state_file, title="distilling")
    model.save_pretrained(run.out)
    figures = {
        "seconds": round(seconds, 1),
        "texts": len(rows),
        **corpus_figures(model, reader, corpus, device, precision),
    }
    write_record(run.out, run, corpus.hashes | {file.name: hash_file(file) for file in read_files}, figures)
    return figures


def _answers(run: Distillation, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the mean of the teachers' probabilities at the run's temperature, (texts, C)."""
    device, precision = run.schedule.device, run.schedule.precision
    logits = [teacher_logits(teacher, texts, run.cache, device=device, precision=precision) for teacher in run.teachers]
    mean: NDArray[np.float32] = np.mean([softmax(one / run.temperature) for one in logits], axis=0)
    return mean


def _certain(run: Distillation, unlabelled_file: Path, held_out: Sequence[Example]) -> list[Example]:
    """Return the texts whose labels follow from how they were made or found, or were given by a reader."""
    seed = run.drawn_by
    mined = mine(unlabelled_file, run.mined, seed, held_out) if run.mined else []
    read = labelled_by_reading(unlabelled_file, run.by_reading, seed, held_out) if run.by_reading else []
    return announcements(run.announcements, seed) + sentences(run.constructed, seed) + mined + read


def _write_tokenizer(
    run: Distillation, model: ElbertForSequenceClassification, unlabelled: Sequence[str], labelled: Sequence[str]
) -> ElbertForSequenceClassification:
    """Write the student's tokenizer, and return the model with the embeddings of its vocabulary."""
    start, own = run.start / "tokenizer.json", run.out / "tokenizer.json"
    if run.vocabulary:
        reader = Reader.open(start, model.config.positions)
        kept = frequent_pieces(reader, unlabelled, run.vocabulary, always=labelled)
        model = prune_embedding(model, kept)
        pruned_tokenizer(start, kept).save(str(own))
    else:
        shutil.copyfile(start, own)
    if run.emoji:
        replace_pieces(model, own, GLAD + SORRY + PLAIN)[0].save(str(own))
    return model
