"""The training loop: AdamW, linear decay, mixed precision, clipped gradients, resumable, deterministic by seed.

Knows batches of indices and a loss; must not know which texts, model or loss they are.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training.data import length_sorted_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the weights are trained."""

    epochs: int = 3
    learning_rate: float = 5e-5
    head_learning_rate: float = 5e-4  # higher: heads start from random weights
    layer_decay: float = 1.0  # of the learning rate, from each layer to the one below it
    warm_up: float = 0.06  # as a share of all steps
    weight_decay: float = 0.01
    clip: float = 1.0
    batch_texts: int = 32
    batch_tokens: int = 4_096
    average: float = 0.0  # decay of the exponential moving average of the weights, which replaces them; 0: none
    seed: int = 1
    device: str = "cpu"
    precision: str = "bfloat16"  # or float32; weights and optimiser state are float32 either way
    save_every: int = 500  # steps


def training_precision(device: str, precision: str) -> str:
    """Return ``precision``; for ``auto`` bfloat16, unless a CPU would emulate it at a thirtieth of the speed."""
    if precision != "auto":
        return precision
    return "bfloat16" if device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def optimise(
    model: nn.Module,
    lengths: Sequence[int],
    loss_of: Callable[[list[int]], Tensor],
    schedule: Schedule,
    *,
    state_file: Path,
    extra: Sequence[nn.Parameter] = (),
    extra_learning_rate: float = 1e-2,
    before_step: Callable[[float], None] | None = None,
    title: str = "training",
) -> float:
    """Train ``model`` in place.

    Parameters
    ----------
    lengths
        Tokens of each training text; batches are made of similar lengths.
    loss_of
        Returns the loss of the texts with these indices; called with autocast on.
    state_file
        Resumable state. If it exists, training resumes from it; deleted when training ends.
    extra, extra_learning_rate
        Further parameters, trained without weight decay: the paper's exit weights.
    before_step
        Called before each step with the progress of training, 0..1.

    Returns
    -------
    seconds
        Duration of this call.
    """
    torch.manual_seed(schedule.seed)
    model.to(schedule.device).train()
    optimiser = _optimiser(model, schedule, extra, extra_learning_rate)
    plan = _plan(lengths, schedule)
    total = len(plan)
    warm_up = max(1, round(total * schedule.warm_up))
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm_up, max(0.0, (total - step) / max(1, total - warm_up)))
    )
    average = {name: value.detach().clone() for name, value in model.state_dict().items()} if schedule.average else {}
    done = 0
    if state_file.is_file():
        done = _resume(state_file, model, optimiser, decay, average, extra)
    started, running = time.monotonic(), None
    reported = started
    with _progress() as bar:
        task = bar.add_task(title, total=total, completed=done, loss="")
        for step in range(done, total):
            if before_step is not None:
                before_step(step / total)
            with torch.autocast(schedule.device.split(":")[0], torch.bfloat16, schedule.precision == "bfloat16"):
                loss = loss_of(plan[step])
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimiser.step()
            decay.step()
            optimiser.zero_grad(set_to_none=True)
            _follow(average, model, min(schedule.average, (step + 1) / (step + 10)))
            value = loss.item()
            running = value if running is None else 0.98 * running + 0.02 * value
            bar.update(task, advance=1, loss=f"loss {running:.4f}")
            if not bar.console.is_terminal and time.monotonic() - reported > 30:
                reported = time.monotonic()
                bar.console.print(
                    f"{title}: step {step + 1} of {total}, loss {running:.4f}, {reported - started:.0f} s"
                )
            if (step + 1) % schedule.save_every == 0 and step + 1 < total:
                _save(state_file, step + 1, model, optimiser, decay, average, extra)
    if average:
        model.load_state_dict(average)
    state_file.unlink(missing_ok=True)
    model.eval()
    return time.monotonic() - started


@contextmanager
def only_early_exits(model: ElbertForSequenceClassification) -> Iterator[None]:
    """Within this context only the exits before the last are trained."""
    last = f"exits.{len(model.exits) - 1}."
    for name, value in model.named_parameters():
        value.requires_grad = name.startswith("exit") and not name.startswith(last)
    try:
        yield
    finally:
        for value in model.parameters():
            value.requires_grad = True


def pad(rows: Sequence[NDArray[np.int32]], pad_id: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Pad rows of ids to ``ids`` and ``mask``, both (B, T), T the longest row."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(longest) < lengths[:, None]
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def keep_of(lengths: Tensor, pruning: Pruning, layers: int) -> Tensor:
    """Return what `Pruning.kept` does, from lengths on any device: (B,) -> (B, L)."""
    return torch.from_numpy(pruning.kept(lengths.cpu().numpy(), layers)).to(lengths.device)


@torch.inference_mode()
def all_logits(
    model: ElbertForSequenceClassification,
    rows: Sequence[NDArray[np.int32]],
    *,
    device: str = "cpu",
    precision: str = "bfloat16",
    batch_tokens: int = 8_192,
    keep: Callable[[Tensor], Tensor] | None = None,
    title: str | None = None,
) -> NDArray[np.float32]:
    """Return (texts, exits, C) logits of every exit, in the order of ``rows``.

    ``keep`` maps the texts' lengths (B,) to the tokens to keep per text and depth, (B, L).
    """
    model.to(device).eval()
    out = np.empty((len(rows), len(model.config.depths), model.config.classes), np.float32)
    with _progress(disable=title is None) as bar:
        task = bar.add_task(title or "", total=len(rows), loss="")
        for batch in by_length([len(row) for row in rows], batch_tokens):
            ids, mask = pad([rows[index] for index in batch], model.config.pad_id, device)
            with torch.autocast(device.split(":", maxsplit=1)[0], torch.bfloat16, precision == "bfloat16"):
                logits = model(ids, mask, None if keep is None else keep(mask.sum(1)))
            out[batch] = logits.float().cpu().numpy()
            bar.update(task, advance=len(batch))
    return out


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Yield batches of texts, the shortest first, of at most ``tokens`` tokens with padding, or one text."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _plan(lengths: Sequence[int], schedule: Schedule) -> list[list[int]]:
    batches: list[list[int]] = []
    for epoch in range(schedule.epochs):
        generator = random.Random(f"{schedule.seed}:{epoch}")
        batches += length_sorted_batches(lengths, schedule.batch_tokens, generator, texts=schedule.batch_texts)
    return batches


def _optimiser(
    model: nn.Module, schedule: Schedule, extra: Sequence[nn.Parameter], extra_rate: float
) -> torch.optim.AdamW:
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    last = max((_layer(name) or 0 for name in trained), default=0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, value in trained.items():
        layer = _layer(name)
        if name.startswith("exit"):
            rate = schedule.head_learning_rate
        else:
            rate = schedule.learning_rate * schedule.layer_decay ** (0 if layer is None else last - layer)
        groups.setdefault((rate, value.ndim > 1), []).append(value)
    settings = [
        {"params": values, "lr": rate, "weight_decay": schedule.weight_decay if matrix else 0.0}
        for (rate, matrix), values in groups.items()
    ]
    if extra:
        settings.append({"params": list(extra), "lr": extra_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(settings, fused=True)


def _layer(name: str) -> int | None:
    """Return the number of the layer that a parameter belongs to, by its name."""
    found = re.search(r"\blayers?\.(\d+)\.", name)
    return int(found[1]) if found else None


def _follow(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    if average:
        state = model.state_dict()
        torch._foreach_lerp_(list(average.values()), [state[name] for name in average], 1 - decay)


def _save(
    file: Path,
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    decay: torch.optim.lr_scheduler.LambdaLR,
    average: dict[str, Tensor],
    extra: Sequence[nn.Parameter],
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "decay": {"last_epoch": decay.last_epoch},
        "average": average,
        "extra": [value.detach() for value in extra],
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all(),
    }
    unfinished = file.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(file)  # a crash while writing keeps the older state


def _resume(
    file: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    decay: torch.optim.lr_scheduler.LambdaLR,
    average: dict[str, Tensor],
    extra: Sequence[nn.Parameter],
) -> int:
    state = torch.load(file, weights_only=True)  # tensors and plain values only
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    decay.last_epoch = state["decay"]["last_epoch"]
    for name, value in average.items():
        value.copy_(state["average"][name])
    with torch.no_grad():
        for parameter, stored in zip(extra, state["extra"], strict=True):
            parameter.copy_(stored)
    torch.set_rng_state(state["random"].cpu())
    torch.cuda.set_rng_state_all([generator_state.cpu() for generator_state in state["cuda_random"]])
    return int(state["step"])


def _progress(disable: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        disable=disable,
    )
