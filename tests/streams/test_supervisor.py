"""`earlybell run`: both roles as processes on real servers. A role that dies is restarted; none is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from earlybell.storage import migrations
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from tests.own_topics import as_environment, own_topics
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


class Running:
    """A running `earlybell run`, and its log."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        environment = {
            **os.environ,
            **as_environment(settings),
            "EARLYBELL_LOG_FORMAT": "json",
            "EARLYBELL_HOME": str(log.parent),
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "earlybell.streams.cli", "run"],
                env=environment, stdout=output, stderr=output, cwd=ROOT, start_new_session=True,
            )  # fmt: skip

    def logged(self) -> str:
        """Return the log so far."""
        return self.log.read_text()

    def pids(self, role: Role) -> list[int]:
        """Return the ids of the processes that were started for a role, in order."""
        return [
            int(match[1])
            for line in self.logged().splitlines()
            if '"role_started"' in line and f'"{role}"' in line and (match := re.search(r'"pid": (\d+)', line))
        ]

    def until(self, done: Callable[[], object]) -> None:
        """Wait until `done`, or fail with the log."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, self.logged()
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
    started = Running(settings, tmp_path / "log")
    yield started
    started.process.kill()
    started.process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_dead_role_is_restarted_and_all_stop_together(
    running: Running, settings: Settings, number: signal.Signals, code: int
) -> None:
    running.until(lambda: running.pids(Role.SCORING) and running.pids(Role.STORING))
    [scoring], [storing] = running.pids(Role.SCORING), running.pids(Role.STORING)
    running.until(lambda: "model_loaded" in running.logged())
    assert psutil.Process(scoring).nice() == os.nice(0), "signals come before rows"
    running.until(lambda: psutil.Process(storing).nice() == os.nice(0) + settings.store_niceness)
    assert "model_load_started" in running.logged(), "it says what it waits for"
    running.until(lambda: "partitions_assigned" in running.logged())
    os.kill(storing, signal.SIGKILL)
    running.until(lambda: len(running.pids(Role.STORING)) == 2)
    assert running.pids(Role.SCORING) == [scoring], "the other role keeps running"
    remembered = running.log.parent / f"roles-{settings.group_prefix}.json"
    storing_history = json.loads(remembered.read_text())["roles"]["storing"]
    assert (storing_history["restarts"], storing_history["last_death"]["cause"]) == (1, "killed by SIGKILL")
    running.process.send_signal(number)
    assert running.process.wait(timeout=PATIENCE_S) == code, running.logged()
    assert not any(alive(pid) for role in Role for pid in running.pids(role))
    assert "Traceback" not in running.logged()
    assert '"role_died"' in running.logged()
    assert not remembered.exists(), "it counts while this process lives"


def test_a_restarted_role_does_not_wait_for_the_session_of_the_killed_one(settings: Settings, tmp_path: Path) -> None:
    longest = 1800.0  # that a broker allows
    running = Running(settings.model_copy(update={"session_timeout_s": longest}), tmp_path / "log")
    group = settings.consumer_group(Role.SCORING)

    def assigned() -> int:
        return sum("partitions_assigned" in line and group in line for line in running.logged().splitlines())

    try:
        running.until(lambda: assigned() == 1)
        os.kill(running.pids(Role.SCORING)[0], signal.SIGKILL)
        running.until(lambda: assigned() == 2)
        assert '"predecessor_removed"' in running.logged()
    finally:
        running.process.terminate()
        running.process.wait(timeout=PATIENCE_S)


def test_roles_do_not_outlive_a_killed_supervisor(running: Running) -> None:
    running.until(lambda: "model_loaded" in running.logged())
    pids = [pid for role in Role for pid in running.pids(role)]
    assert all(map(alive, pids))
    running.process.kill()
    running.process.wait()
    running.until(lambda: not any(map(alive, pids)))


def test_a_role_that_refuses_to_start_ends_the_run(kafka_bootstrap: str, fresh_database: str, tmp_path: Path) -> None:
    settings = own_topics(kafka_bootstrap, database_url=fresh_database, devices="cpu")
    running = Running(settings, tmp_path / "log")
    assert running.process.wait(timeout=PATIENCE_S) == 2, running.logged()
    assert "earlybell db upgrade" in running.logged()
    assert not any(alive(pid) for role in Role for pid in running.pids(role))
