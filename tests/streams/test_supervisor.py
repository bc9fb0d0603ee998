"""`earlybell run`: both roles as processes on real servers; one that dies comes back, none is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from earlybell.storage import migrations
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from tests.own_topics import as_environment, own_topics

ROOT = Path(__file__).parents[2]
#: A model is loaded in between, on a machine that may be busy.
PATIENCE_S = 180.0


class Running:
    """An `earlybell run`, and what it says."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        environment = {**os.environ, **as_environment(settings), "EARLYBELL_LOG_FORMAT": "json"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "earlybell.streams.cli", "run"],
                env=environment, stdout=output, stderr=output, cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        """Everything so far."""
        return self.log.read_text()

    def pids(self, role: Role) -> list[int]:
        """Of the processes that were started for a role, in order."""
        return [
            int(found[1])
            for line in self.said().splitlines()
            if '"role_started"' in line and f'"{role}"' in line and (found := re.search(r'"pid": (\d+)', line))
        ]

    def until(self, done: Callable[[], object]) -> None:
        """Wait for it, or fail with what was said."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.fixture
def settings(kafka_bootstrap: str, fresh_database: str) -> Settings:
    migrations.upgrade(fresh_database)
    return own_topics(kafka_bootstrap, database_url=fresh_database, devices="cpu")


@pytest.fixture
def running(settings: Settings, tmp_path: Path) -> Iterator[Running]:
    made = Running(settings, tmp_path / "log")
    yield made
    made.process.kill()
    made.process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_role_that_dies_comes_back_and_all_stop_together(running: Running, number: signal.Signals, code: int) -> None:
    running.until(lambda: running.pids(Role.SCORING) and running.pids(Role.STORING))
    [scoring], [storing] = running.pids(Role.SCORING), running.pids(Role.STORING)
    running.until(lambda: "model_ready" in running.said())
    os.kill(storing, signal.SIGKILL)
    running.until(lambda: len(running.pids(Role.STORING)) == 2)
    assert running.pids(Role.SCORING) == [scoring], "the other role is left alone"
    running.process.send_signal(number)
    assert running.process.wait(timeout=PATIENCE_S) == code, running.said()
    assert not any(alive(pid) for role in Role for pid in running.pids(role))
    assert "Traceback" not in running.said()
    assert '"role_died"' in running.said()


def test_roles_do_not_outlive_us_however_we_die(running: Running) -> None:
    running.until(lambda: "model_ready" in running.said())
    pids = [pid for role in Role for pid in running.pids(role)]
    assert all(map(alive, pids))
    running.process.kill()
    running.process.wait()
    running.until(lambda: not any(map(alive, pids)))


def test_a_role_that_refuses_to_start_ends_the_run(kafka_bootstrap: str, fresh_database: str, tmp_path: Path) -> None:
    settings = own_topics(kafka_bootstrap, database_url=fresh_database, devices="cpu")
    running = Running(settings, tmp_path / "log")
    assert running.process.wait(timeout=PATIENCE_S) == 2, running.said()
    assert "earlybell db upgrade" in running.said()
    assert not any(alive(pid) for role in Role for pid in running.pids(role))
