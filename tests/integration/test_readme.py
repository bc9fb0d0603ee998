"""The README, to the letter: its commands in their order, its Python, its consumer and its SQL, on real servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from earlybell.deploy.local import postgres, processes
from earlybell.signal_fields import SIGNAL_FIELDS
from earlybell.streams.demo import sample
from earlybell.streams.records import decode_signal, signal_id, text_hash
from tests.patience import PATIENCE_S
from tests.streams.test_schemas import validator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Commands that run until Ctrl-C, each in its own terminal.
LASTING = ("earlybell watch", "earlybell run")


#: Lines of `earlybell watch` for the sample feed.
SIGNALS = sample.SIGNALS + sample.DUPLICATES
SIGNAL_LINE = re.compile(r"^\d\d:\d\d:\d\d", re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    [block] = [block for block in blocks("sh") if "earlybell up" in block]
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]


class Shell:
    """Runs commands in an environment of their own, and those that last in the background."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        programs = directory / "bin"
        programs.mkdir()
        script = programs / "earlybell"
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m earlybell.streams.cli "$@"\n')
        script.chmod(0o755)
        path = os.pathsep.join([str(programs), str(postgres.server_programs()), os.environ["PATH"]])
        servers = {"EARLYBELL_KAFKA_BOOTSTRAP", "EARLYBELL_DATABASE_URL"}
        self.environment = {name: value for name, value in os.environ.items() if name not in servers} | {
            "PATH": path, "EARLYBELL_HOME": str(self.home), "EARLYBELL_DEVICES": "cpu",
        }  # fmt: skip
        self._lasting: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._directory = directory

    def run(self, command: str) -> str:
        """Run a command, which must succeed, and return what it printed."""
        done = subprocess.run(
            ["bash", "-c", command], env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S,
            check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def start(self, command: str, *arguments: str) -> None:
        """Start a command that lasts."""
        if command == "earlybell run":  # only now: a port that was free before the servers started may be theirs
            scoring = processes.free_port()
            storing = processes.free_port(taken=[scoring])
            self.environment |= {"EARLYBELL_SCORING_PORT": str(scoring), "EARLYBELL_STORING_PORT": str(storing)}
        log = self._directory / f"{len(self._lasting)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*shlex.split(command), *arguments], env=self.environment, stdout=out, stderr=out, cwd=ROOT
            )
        self._lasting[command] = process, log

    def until(self, command: str, done: Callable[[str], bool]) -> None:
        """Wait until what a lasting command has printed is `done`."""
        deadline = time.monotonic() + PATIENCE_S
        process, log = self._lasting[command]
        while not done(log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def interrupt(self, command: str) -> int:
        """Type Ctrl-C, and return the command's exit code."""
        process, _ = self._lasting.pop(command)
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=PATIENCE_S)

    def close(self) -> None:
        """Leave nothing running."""
        for process, _ in self._lasting.values():
            process.kill()
            process.wait()
        subprocess.run(["earlybell", "down"], env=self.environment, check=False, cwd=ROOT, capture_output=True)

    def stack(self) -> dict[str, str]:
        """Return the addresses of the servers."""
        addresses: dict[str, str] = json.loads((self.home / "stack.json").read_text())
        return addresses


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with closing(Shell(tmp_path)) as started:
        yield started


def test_the_commands_in_their_order_and_the_code(shell: Shell) -> None:
    activate, *typed = commands()
    assert activate == "source .venv/bin/activate"
    assert typed[-1] == "earlybell down"
    printed: dict[str, str] = {}
    for command in typed[:-1]:
        if command in LASTING:
            shell.start(command)
        else:
            if command.startswith("earlybell replay"):
                shell.until("earlybell run", lambda log: log.count('"role_ready"') == 2)
            printed[command.split(" -")[0]] = shell.run(command)
        if command.startswith("earlybell replay"):
            shell.until("earlybell watch", lambda log: len(SIGNAL_LINE.findall(log)) == SIGNALS)
    assert '"label":"positive"' in printed['echo "Acme profit soars to a record" | earlybell score']
    assert f"{len(sample.BROKEN)} dead letters" in printed["earlybell dead"]
    assert printed["earlybell status"].count(" ready ") == 2
    assert "CALD" in printed['psql "$(earlybell db url)"']
    assert shell.run("earlybell up").count("already running") == 2
    code_runs(shell)
    assert shell.interrupt("earlybell watch") == 0
    assert shell.interrupt("earlybell run") == 130
    assert shell.run("earlybell down") == "stopped: kafka, postgres\n"
    first, *deleted = shell.run("earlybell down --purge").splitlines()
    assert first == "nothing was running"
    directories = [f"deleted: {shell.home}/{name}" for name in ("kafka", "postgres")]
    assert [line.split(" (")[0] for line in deleted] == directories
    assert "nothing to delete" in shell.run("earlybell down --purge")


def code_runs(shell: Shell) -> None:
    engine, producer, consumer = blocks("python")
    address = f'"{shell.stack()["kafka_bootstrap"]}"'
    printed = shell.run(f"{shlex.quote(sys.executable)} -c {shlex.quote(engine)}")
    assert "(2 texts)" in printed
    assert "['positive', 'negative']" in printed
    here, earliest = f"bootstrap_servers={address}", 'auto_offset_reset="earliest"'
    assert "127.0.0.1:9092" in producer and "127.0.0.1:9092" in consumer
    command = f"{shlex.quote(sys.executable)} -c "
    following = command + shlex.quote(re.sub(r'bootstrap_servers="[^"]*"', f"{here}, {earliest}", consumer))
    shell.start(following)
    for _ in range(2):
        shell.run(command + shlex.quote(re.sub(r'bootstrap_servers="[^"]*"', here, producer)))
    shell.until(following, lambda log: "wire-42 positive" in log)
    with closing(psycopg2.connect(shell.stack()["database_url"])) as database, database.cursor() as cursor:
        for query in re.findall(r"SELECT [^;]*", blocks("sql")[0]):
            cursor.execute(query)
            cursor.fetchall()


def test_the_message_is_a_real_one() -> None:
    [text] = blocks("json")
    message = json.loads(text)
    assert list(message) == list(SIGNAL_FIELDS)
    validator("SentimentSignal").validate(message)
    signal = decode_signal(text.encode())
    headline = re.findall(r'"headline": "(.*?)"', README)[0]
    assert signal.text_hash == text_hash(headline)
    identity = signal.news_id, signal.revision, signal.text_hash, signal.model_revision, signal.policy
    assert signal.signal_id == signal_id(*identity)
    assert signal.label == max(signal.probabilities, key=signal.probabilities.__getitem__)
    assert signal.confidence == max(signal.probabilities.values())
    assert signal.score == pytest.approx(signal.probabilities["positive"] - signal.probabilities["negative"], abs=2e-3)
    assert sum(signal.probabilities.values()) == pytest.approx(1, abs=2e-3)
