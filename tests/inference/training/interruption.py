"""Interrupts a training, as Ctrl-C does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Within this context, interrupt the optimiser's step of this number; whoever trains must let that through."""
    step, calls = torch.optim.AdamW.step, 0

    def interrupted_step(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return step(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.optim.AdamW, "step", interrupted_step)
        yield
