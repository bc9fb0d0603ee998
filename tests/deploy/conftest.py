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
    """Ignore external servers: these tests are about the ones that we start."""
    monkeypatch.delenv("EARLYBELL_KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.delenv("EARLYBELL_DATABASE_URL", raising=False)


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that is taken down and deleted after the test, even if it fails."""
    directory = Path(tempfile.mkdtemp(prefix="earlybell test-"))
    yield directory
    stack.down(directory)
    shutil.rmtree(directory, ignore_errors=True)
