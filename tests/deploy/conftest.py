"""Homes for local stacks that tests start themselves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from earlybell.deploy.local import stack


@pytest.fixture(autouse=True)
def nothing_external(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about the servers that we start."""
    monkeypatch.delenv("EARLYBELL_KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.delenv("EARLYBELL_DATABASE_URL", raising=False)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home in which nothing is left running or lying about, whatever the test did."""
    where = Path(tempfile.mkdtemp(prefix="earlybell test-"))
    yield where
    stack.down(where)
    shutil.rmtree(where, ignore_errors=True)
