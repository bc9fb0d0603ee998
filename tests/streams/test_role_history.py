"""What `earlybell status` knows of roles that die: it counts while their supervisor lives, and no longer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from earlybell.streams import role_history
from earlybell.streams.cli import execute
from earlybell.streams.role_history import Death, History, cause
from earlybell.streams.roles import Role

DYING = {Role.SCORING: History(3, Death(time.time() - 4, "killed by SIGKILL", 2.5)), Role.STORING: History()}


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like `earlybell run`, and wrote what it knows."""
    monkeypatch.setenv("EARLYBELL_HOME", str(tmp_path))
    script = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script, "earlybell.streams.cli", "run"]) as process:
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: process.pid)
            role_history.write("mine", DYING)
        yield process
        process.kill()


def test_it_is_read_back_while_the_supervisor_lives(supervisor: subprocess.Popen[bytes]) -> None:
    assert role_history.read("mine") == DYING
    assert role_history.read("theirs") == {}
    supervisor.kill()
    supervisor.wait()
    assert role_history.read("mine") == {}


def test_status_reports_a_role_that_keeps_dying(
    supervisor: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    kafka_bootstrap: str, database_url: str,
) -> None:  # fmt: skip
    for name, value in {
        "KAFKA_BOOTSTRAP": kafka_bootstrap, "DATABASE_URL": database_url, "GROUP_PREFIX": "mine",
        "SCORING_PORT": "1", "STORING_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"EARLYBELL_{name}", value)
    assert execute(["status"]) == 1
    lines = capsys.readouterr().out.splitlines()
    [scoring] = [line for line in lines if line.startswith("scoring")]
    assert re.fullmatch(r"scoring +restarting +died 3 times, last .* ago: killed by SIGKILL", scoring)
    assert "storing   not running" in lines
    assert execute(["status", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["roles"]
    assert (report["scoring"]["restarts"], report["scoring"]["last_death"]["cause"]) == (3, "killed by SIGKILL")
    assert report["storing"]["last_death"] is None
    role_history.clear("mine")
    assert execute(["status"]) == 3, "nothing is wrong, but a role does not run"


def test_a_damaged_file_is_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EARLYBELL_HOME", str(tmp_path))
    (tmp_path / "roles-mine.json").write_text('{"pid": "x", "roles": 3}')
    assert role_history.read("mine") == {}


def test_causes_in_words() -> None:
    assert [cause(code) for code in (1, -9, -250)] == ["exit code 1", "killed by SIGKILL", "exit code -250"]
