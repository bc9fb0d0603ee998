"""The roles' wall clock steps by an hour, forwards and back: everything is processed, and nothing is seen too early."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.supervisor import Roles
from tests.faults.clock import READ_EVERY_S, Clock, NoClock
from tests.integration.whole_pipeline import count, messages, query
from tests.own_topics import as_environment
from tests.streams.chunk_workers import committed, ends, publish, until

STEP = timedelta(hours=1)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    try:
        return Clock(tmp_path / "clock")
    except NoClock as error:
        pytest.skip(str(error))


@pytest.mark.timeout(900)
async def test_clocks_that_step(settings: Settings, stories: Sequence[bytes], clock: Clock) -> None:
    offsets = (timedelta(0), STEP, -STEP, timedelta(0))
    parts = [stories[start : start + 200] for start in range(0, 200 * len(offsets), 200)]
    environment: Mapping[str, str] = {**as_environment(settings), **clock.environment}
    async with Roles(environment=environment) as roles:
        pids = None
        for number, (offset, part) in enumerate(zip(offsets, parts, strict=True), start=1):
            clock.step_to(offset.total_seconds())
            await asyncio.sleep(2 * READ_EVERY_S)
            publish(settings, part)
            await until(lambda number=number: count(settings, "signals") >= 200 * number, 240)  # type: ignore[misc]
            await until(lambda number=number: count(settings, "news") >= 200 * number, 240)  # type: ignore[misc]
            pids = pids or roles.pids
            assert roles.pids == pids, "a step must not end a role"
        for role in Role:
            await until(lambda role=role: committed(settings, role) == ends(settings), 120)  # type: ignore[misc]
    assert count(settings, "signals") == count(settings, "news") == 200 * len(offsets)
    assert messages(settings, settings.dead_topic) == []
    # The steps reached the roles.
    off_by = "extract(epoch FROM scored_at - ingested_at)"
    ahead, behind = (
        query(settings, f"SELECT count(*) FROM signals WHERE {off_by} {condition}")[0][0]
        for condition in (f"> {STEP.total_seconds() / 2}", f"< -{STEP.total_seconds() / 2}")
    )
    assert ahead > 100, "the roles saw the clock step forwards"
    assert behind > 100, "the roles saw the clock step back"
    early = "SELECT count(*) FROM signals WHERE available_at < scored_at OR available_at < ingested_at"
    assert query(settings, early)[0][0] == 0
