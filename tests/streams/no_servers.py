"""A user's directory with a few files and settings for servers that do not answer: commands fail in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from earlybell.streams import brokers

NOWHERE = {
    "EARLYBELL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "EARLYBELL_DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/none",
}


def enter(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Make ``directory`` the working directory, write the files, and set the environment."""
    for name in [name for name in os.environ if name.startswith("EARLYBELL_") and name != "EARLYBELL_DATA"]:
        monkeypatch.delenv(name)
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EARLYBELL_HOME", str(directory / "home"))
    monkeypatch.setattr(brokers, "BOOTSTRAP_TIMEOUT_MS", 200)
    monkeypatch.chdir(directory)
    (directory / "good.csv").write_text("title,date\nZephyr wins,2026-03-02T09:00Z\n")
    (directory / "odd.csv").write_text("kicker,when\nx,y\n")
    (directory / "texts.txt").write_text("Zephyr wins\n")
