"""Kill the roles' processes during a replay: nothing is lost, nothing is counted twice.

The processes are those of ``earlybell run --role ROLE``, with the shipped model.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from earlybell.streams.records import decode_signal
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from tests.integration.whole_pipeline import count, messages
from tests.own_topics import as_environment
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import committed, ends, publish, until


class Roles:
    """The current processes of the two roles."""

    def __init__(self, settings: Settings) -> None:
        self._environment = {**os.environ, **as_environment(settings), "EARLYBELL_LOG_LEVEL": "warning"}
        self.running = {role: self._start(role) for role in Role}

    def _start(self, role: Role) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "earlybell.streams.cli", "run", "--role", role]
        return subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL)

    def end_and_restart(self, role: Role, number: signal.Signals) -> int:
        """Send the signal, wait for the process to exit, restart it, and return its exit code."""
        process = self.running[role]
        process.send_signal(number)
        code = process.wait(timeout=PATIENCE_S)
        self.running[role] = self._start(role)
        return code

    def stop(self) -> dict[Role, int]:
        for process in self.running.values():
            process.terminate()
        return {role: process.wait(timeout=PATIENCE_S) for role, process in self.running.items()}


@contextmanager
def roles(settings: Settings) -> Iterator[Roles]:
    started = Roles(settings)
    try:
        yield started
    finally:
        for process in started.running.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
async def test_a_role_that_dies_during_a_replay_loses_no_rows(
    settings: Settings, stories: list[bytes], number: signal.Signals
) -> None:
    publish(settings, stories)
    wanted = len(stories)
    expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0}[number]
    with roles(settings) as running:
        await until(lambda: count(settings, "signals") > wanted * 0.1)
        assert running.end_and_restart(Role.SCORING, number) == expected
        scored = count(settings, "signals")
        assert scored < wanted, "the replay was over before the scoring role was hit: the test shows nothing"
        await until(lambda: count(settings, "signals") > scored + wanted * 0.1)
        assert running.end_and_restart(Role.STORING, number) == expected
        assert count(settings, "signals") < wanted, "the replay was over before the storing role was hit"
        await until(lambda: count(settings, "signals") == count(settings, "news") == wanted)
        await until(lambda: committed(settings) == ends(settings))
        for topic in (settings.news_topic, settings.sentiment_topic):
            await until(lambda topic=topic: committed(settings, Role.STORING, topic) == ends(settings, topic))  # type: ignore[misc]
        assert set(running.stop().values()) == {0}
    signals = [decode_signal(message.value) for message in messages(settings, settings.sentiment_topic)]
    assert {signal.news_id for signal in signals} == {decode_id(story) for story in stories}
    assert len({signal.signal_id for signal in signals}) == wanted
    assert messages(settings, settings.dead_topic) == []


def decode_id(story: bytes) -> str:
    return str(msgspec.json.decode(story)["id"])
