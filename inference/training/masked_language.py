"""`earlybell pretrain`: goes on pre-training a backbone on unlabelled headlines, by guessing hidden tokens.

Sources: BERT, arXiv 1810.04805, section 3.1 (which tokens are hidden, and how); domain-adaptive pre-training, arXiv
2004.10964. The encoder and the embeddings learn. Exits stay as they are, and the head that guesses is not kept.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.huggingface import write_pretrained
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training.backbones import backbone_directory
from earlybell.inference.training.data import (
    UNLABELLED,
    DataError,
    Example,
    hash_file,
    length_sorted_batches,
    read_corpus,
    read_unlabelled,
)
from earlybell.inference.training.optimise import Schedule, optimise, pad
from earlybell.inference.training.records import write_record
from earlybell.inference.training.vocabulary import SPECIAL

#: Of the hidden tokens so many read [MASK] and so many a random piece; the others stay, but are guessed too.
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
#: Headlines that the loss is measured on, at most a tenth of those trained on. Which they are and what is hidden in
#: them does not depend on the run's seed, so that runs can be compared.
HELD_OUT, HELD_OUT_SEED = 2_000, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """One run of `pretrain`."""

    data: Path
    out: Path
    start: str = "minilm"  # a backbone's name, or a directory
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the model's `Config`, such as groups=1
    headlines: int = 100_000
    share: float = 0.15  # of the tokens, hidden
    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=1, learning_rate=1e-4, head_learning_rate=1e-3, batch_texts=64)
    )


def pretrain(run: Pretraining) -> dict[str, Any]:
    """Train a backbone on hidden tokens of headlines, write it with its record to ``run.out`` and return the figures.

    Run again after an interruption, it resumes; the same seed on the same machine gives the same weights. Exits that
    the start lacks are not written: whoever starts from ``run.out`` makes new ones, as from the start itself.

    Returns
    -------
    figures
        Loss (nats per hidden token) and accuracy on hidden tokens of held-out headlines, at the end (``held_out``) and
        after a tenth of the steps (``held_out_after_a_tenth``; None if the run resumed later than that). There is none
        from before the training, when the head knows nothing. ``seconds`` is the duration of the training.

    Raises
    ------
    DataError
        If the data is missing, or no headline is left to train on.
    CheckpointError
        If the start cannot be read, or its tokenizer has no [MASK].
    """
    corpus = read_corpus(run.data)
    torch.manual_seed(run.schedule.seed)
    start = backbone_directory(run.start)
    model = ElbertForSequenceClassification.from_pretrained(start, **run.changes)
    reader = Reader.open(start / "tokenizer.json", model.config.positions, figures=model.config.figures)
    hiding = Hiding.by(reader, run.share)
    head = Guesser(model.config).to(run.schedule.device)

    file = run.data / UNLABELLED
    unread = corpus.held_out
    held_out = read_unlabelled(file, min(HELD_OUT, max(1, run.headlines // 10)), HELD_OUT_SEED, unread)
    unread += [Example(text, "", "unlabelled") for text in held_out]
    rows = list(reader.read(read_unlabelled(file, run.headlines, run.schedule.seed, unread)))
    if not rows:
        raise DataError(f"no headlines to train on in {file}: all are held out, so ask for fewer")

    head.expect(rows)

    def loss_of(batch: list[int]) -> Tensor:
        # Drawn from the batch and not from a state: a run that resumes hides the same tokens.
        logits, truth = _guess(model, head, hiding, [rows[index] for index in batch], [run.schedule.seed, *batch])
        return F.cross_entropy(logits, truth, reduction="sum") / max(1, len(truth))

    measured = list(reader.read(held_out))
    early = _AfterTenth(lambda: _measure(model, head, hiding, measured, run.schedule))
    exits = [value for name, value in model.named_parameters() if name.startswith("exit")]
    for value in exits:
        value.requires_grad = False
    run.out.mkdir(parents=True, exist_ok=True)
    seconds = optimise(
        model,
        [len(row) for row in rows],
        loss_of,
        run.schedule,
        state_file=run.out / "state.pt",
        extra=tuple(head.parameters()),
        extra_learning_rate=run.schedule.head_learning_rate,
        before_step=early.update,
        title="pre-training",
    )
    for value in exits:
        value.requires_grad = True
    figures = {
        "seconds": round(seconds, 1),
        "texts": len(rows),
        "held_out_after_a_tenth": early.figures,
        "held_out": _measure(model, head, hiding, measured, run.schedule),
    }
    weights = {name: value for name, value in model.weights().items() if name not in model.new_weights}
    write_pretrained(model.config, weights, run.out)
    shutil.copyfile(start / "tokenizer.json", run.out / "tokenizer.json")
    write_record(run.out, run, corpus.hashes | {file.name: hash_file(file)}, figures)
    return figures


@dataclass(frozen=True, slots=True)
class Hiding:
    """Which tokens are hidden, and what is read in their place."""

    share: float  # of the tokens that are not special, each by itself
    mask_id: int
    special: NDArray[np.int64]  # ids that are never hidden, and never a random replacement
    pieces: NDArray[np.int64]  # ids of all other tokens: what a random replacement may be

    @classmethod
    def by(cls, reader: Reader, share: float) -> Hiding:
        """Return the rule for a tokenizer; raise ``CheckpointError`` if it has no [MASK]."""
        if "[MASK]" not in reader.vocabulary:
            raise CheckpointError("the start's tokenizer has no [MASK], so no token can be hidden")
        special = {reader.vocabulary[token] for token in SPECIAL if token in reader.vocabulary}
        pieces = sorted(set(reader.vocabulary.values()) - special)
        return cls(share, reader.vocabulary["[MASK]"], np.array(sorted(special)), np.array(pieces))

    def hide(self, ids: NDArray[np.int64], seed: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the ids to read, and which of them are to be guessed: (B, T) -> (B, T), (B, T).

        Padding is [PAD], a special token. The same ids and seed give the same result.
        """
        generator = np.random.default_rng(seed)
        hidden = (generator.random(ids.shape) < self.share) & ~np.isin(ids, self.special)
        kind = generator.random(ids.shape)
        others = generator.choice(self.pieces, ids.shape)
        read = np.where(kind < MASK_SHARE, self.mask_id, np.where(kind < MASK_SHARE + RANDOM_SHARE, others, ids))
        return np.where(hidden, read, ids), hidden


class Guesser(nn.Module):
    """BERT's head for hidden tokens: dense, GELU, norm, then the word embeddings themselves and a bias.

    Axes as in `elbert`; N hidden tokens.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.embedding)
        self.norm = nn.LayerNorm(config.embedding, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        # BERT's is random. From the identity, 8,000 headlines teach bge-small to guess twice as many tokens.
        nn.init.eye_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def expect(self, rows: Sequence[NDArray[np.int32]]) -> None:
        """Start from the pieces' frequencies in these texts, or the embeddings would change only to learn them."""
        counts = np.bincount(np.concatenate(rows), minlength=len(self.bias)) + 1
        with torch.no_grad():
            self.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """Return the logits of every piece in float32: (N, h) states, (V, E) word embeddings -> (N, V)."""
        return F.linear(self.norm(F.gelu(self.dense(states))), words, self.bias).float()


class _AfterTenth:
    """Measures once, when a tenth of the steps is done."""

    def __init__(self, measure: Callable[[], dict[str, Any]]) -> None:
        self.measure, self.before = measure, 1.0
        self.figures: dict[str, Any] | None = None

    def update(self, progress: float) -> None:
        if self.before < 0.1 <= progress:
            self.figures = self.measure()
        self.before = progress


def _guess(
    model: ElbertForSequenceClassification,
    head: Guesser,
    hiding: Hiding,
    rows: Sequence[NDArray[np.int32]],
    seed: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return (N, V) logits of the hidden tokens of these texts, and (N,) what they are."""
    device = model.embedding.token.weight.device
    ids, live = pad(rows, model.config.pad_id)
    read, hidden = hiding.hide(ids.numpy(), seed)
    places = torch.from_numpy(np.stack(hidden.nonzero()))  # (2, N): text and position
    truth = ids[places[0], places[1]].to(device)
    x, live, places = model.embed(torch.from_numpy(read).to(device)), live.to(device), places.to(device)
    for depth in range(1, model.config.layers + 1):
        x, _ = model.deepen(x, live, depth)
    # A row of logits has as many columns as the vocabulary: computed only where a token is hidden.
    return head(x[places[0], places[1]], model.embedding.token.weight), truth


@torch.inference_mode()
def _measure(
    model: ElbertForSequenceClassification,
    head: Guesser,
    hiding: Hiding,
    rows: Sequence[NDArray[np.int32]],
    schedule: Schedule,
) -> dict[str, Any]:
    """Return loss and accuracy on hidden tokens, the same ones at every call; the model's mode is kept."""
    training = model.training
    model.eval()
    loss, right, count = 0.0, 0, 0
    batches = length_sorted_batches([len(row) for row in rows], 4_096, random.Random(HELD_OUT_SEED))
    for batch in batches:
        with torch.autocast(schedule.device.split(":")[0], torch.bfloat16, schedule.precision == "bfloat16"):
            logits, truth = _guess(model, head, hiding, [rows[index] for index in batch], [HELD_OUT_SEED, *batch])
        loss += F.cross_entropy(logits, truth, reduction="sum").item()
        right += int((logits.argmax(-1) == truth).sum())
        count += len(truth)
    model.train(training)
    return {
        "loss": round(loss / max(1, count), 4),
        "accuracy": round(right / max(1, count), 4),
        "hidden_tokens": count,
        "n": len(rows),
    }
