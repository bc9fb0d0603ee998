"""`earlybell train`: fits an ELBERT to labelled texts, from a pre-trained encoder or another checkpoint.

Losses: the paper's learned exit weights, equal weights (its ablation), the last exit alone (a teacher), GEEP's one
step, and the two steps that it replaces. ACC pruning can be on during training, its share ramped down from 1.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training.backbones import backbone_directory
from earlybell.inference.training.data import LABELS, Example, hash_file, read_corpus
from earlybell.inference.training.labelled import LabelledFile, labels_of, sample, split
from earlybell.inference.training.losses import ExitWeights, exits_cross_entropy, one_step
from earlybell.inference.training.optimise import Schedule, keep_of, only_early_exits, optimise, pad
from earlybell.inference.training.records import corpus_figures, figures_on, write_record

Loss = Literal["learned", "equal", "last", "one-step", "two-step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One run of `train`."""

    data: Path
    out: Path
    start: str = "minilm"  # a backbone's name, or a directory
    tokenizer: Path | None = None  # default: the start's own
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the model's `Config`, such as groups=1
    sources: tuple[str, ...] = ("tfns", "sentfin", "finentity")
    labelled: LabelledFile | None = None  # instead of the project's own texts; a tenth is held out
    texts: int = 0  # train on a sample of this many, by the seed; 0: all
    frozen: int = 0  # layers, from the first, that are not trained; nor then is the embedding
    loss: Loss = "learned"
    alpha: float = 1.0  # ACC: share of tokens that a layer keeps after the ramp; 1: no pruning
    ramp: float = 1 / 3  # share of training over which alpha falls from 1
    schedule: Schedule = field(default_factory=Schedule)


def train(run: Training) -> dict[str, Any]:
    """Fit a model to the project's labelled texts, or a file's, and write it with its record to ``run.out``.

    Returns
    -------
    figures
        Accuracy per exit on the held-out texts, wall-clock time (``seconds``) and CPU time (``processor_seconds``).

    Raises
    ------
    DataError
        If the data is missing or malformed.
    CheckpointError
        If the start cannot be read, or layers are to be frozen that share their weights.
    """
    device, precision = run.schedule.device, run.schedule.precision
    labels: tuple[str, ...]
    if run.labelled is None:
        corpus = read_corpus(run.data)
        examples = [example for example in corpus.train if example.source in run.sources]
        labels, hashes = LABELS, corpus.hashes
    else:
        read = run.labelled.read()
        examples, dev = split(read)
        labels, hashes = labels_of(read), {run.labelled.path.name: hash_file(run.labelled.path)}
    examples = sample(examples, run.texts, run.schedule.seed)
    started = time.process_time()
    model, reader, seconds = fit(run, examples, labels)
    figures: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "processor_seconds": round(time.process_time() - started, 1),
        "texts": len(examples),
        "parameters": sum(value.numel() for value in model.parameters()),
        "parameters_of_exits": sum(
            value.numel() for name, value in model.named_parameters() if name.startswith("exit")
        ),
    }
    if run.labelled is None:
        figures |= corpus_figures(model, reader, corpus, device, precision)
    else:
        figures["dev"] = figures_on(dev, model, reader, device, precision)
    write_record(run.out, run, hashes, figures)
    return figures


def fit(
    run: Training, examples: Sequence[Example], labels: tuple[str, ...]
) -> tuple[ElbertForSequenceClassification, Reader, float]:
    """Fit a model to any labelled texts and write it to ``run.out``.

    Returns
    -------
    model, reader, seconds
        The fitted model in evaluation mode, its reader, and the duration of the training.
    """
    torch.manual_seed(run.schedule.seed)
    start = backbone_directory(run.start)
    tokenizer = run.tokenizer or start / "tokenizer.json"
    changes = {"labels": labels, "head": "cls_mean", "head_hidden": 128, "shared_head": False, **run.changes}
    model = ElbertForSequenceClassification.from_pretrained(start, **changes)
    reader = Reader.open(tokenizer, model.config.positions, figures=model.config.figures)
    rows = reader.read([example.text for example in examples])
    device = run.schedule.device
    truth = torch.tensor([labels.index(example.label) for example in examples], device=device)
    weights = ExitWeights(len(model.config.depths)).to(device)
    ramp = _Ramp(run.alpha, run.ramp)

    def batch(indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        return *pad([rows[index] for index in indices], model.config.pad_id, device), truth[indices]

    def loss_of(indices: list[int]) -> Tensor:
        ids, mask, answer = batch(indices)
        if run.loss == "one-step":
            return one_step(model, ids, mask, answer)
        alpha = ramp.alpha
        keep = None if alpha >= 1.0 else keep_of(mask.sum(1), Pruning(alpha), model.config.layers)
        if run.loss in ("last", "two-step"):
            x = model.embed(ids)
            for depth in range(1, model.config.layers + 1):
                x, mask = model.deepen(x, mask, depth, None if keep is None else keep[:, depth - 1])
            return nn.functional.cross_entropy(model.exit_logits(x, mask, model.config.layers).float(), answer)
        logits = model(ids, mask, keep)
        exits = logits.shape[1]
        return exits_cross_entropy(logits, answer, weights() if run.loss == "learned" else logits.new_ones(exits))

    def early_exits_loss(indices: list[int]) -> Tensor:
        ids, mask, answer = batch(indices)
        logits = model(ids, mask)[:, :-1]
        return exits_cross_entropy(logits, answer, logits.new_ones(logits.shape[1]))

    frozen = _frozen(model, run.frozen)
    for value in frozen:
        value.requires_grad = False
    run.out.mkdir(parents=True, exist_ok=True)
    lengths = [len(row) for row in rows]
    seconds = optimise(
        model,
        lengths,
        loss_of,
        run.schedule,
        state_file=run.out / "state.pt",
        extra=tuple(weights.parameters()) if run.loss == "learned" else (),
        before_step=ramp.update,
        title="training",
    )
    for value in frozen:
        value.requires_grad = True
    if run.loss == "two-step":
        seconds += _second_step(model, lengths, early_exits_loss, run)
    model.save_pretrained(run.out)
    shutil.copyfile(tokenizer, run.out / "tokenizer.json")
    return model, reader, seconds


def _frozen(model: ElbertForSequenceClassification, layers: int) -> list[nn.Parameter]:
    """Return the parameters of the first layers and, if there are any, of the embedding below them."""
    if layers and model.config.groups < model.config.layers:
        raise CheckpointError(
            "layers that share their weights with others cannot be frozen: leave the groups as they are"
        )
    frozen = [model.embedding, *model.layers[:layers]] if layers else []
    return [value for module in frozen for value in module.parameters()]


class _Ramp:
    """ACC's alpha over training: falls from 1 to ``end`` over the first ``share`` of it, then stays."""

    def __init__(self, end: float, share: float) -> None:
        self.end, self.share, self.alpha = end, share, 1.0

    def update(self, progress: float) -> None:
        self.alpha = 1.0 - (1.0 - self.end) * min(1.0, progress / self.share if self.share else 1.0)


def _second_step(model: ElbertForSequenceClassification, lengths: Sequence[int], loss_of: Any, run: Training) -> float:
    """Train the early exits' heads on a frozen encoder, as was done before GEEP."""
    schedule = replace(run.schedule, seed=run.schedule.seed + 1)
    with only_early_exits(model):
        return optimise(model, lengths, loss_of, schedule, state_file=run.out / "state-2.pt", title="exits")
