"""What an observer sees of the roles: their probes and metrics, once a second, and the signs of a fault in them."""

from __future__ import annotations

import asyncio
import http.client
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from earlybell.streams.roles import Role

LOOK_EVERY_S, TIMEOUT_S = 1.0, 3.0
#: The value above which a gauge is a sign of a fault; for a histogram, the mean since the last look.
TOO_HIGH = {
    "earlybell_event_loop_age_seconds": 2.0,
    "earlybell_oldest_window_seconds": 2.0,
    "earlybell_oldest_unacknowledged_seconds": 4.0,
    "earlybell_lag_messages": 300.0,
}
TOO_SLOW = {
    "earlybell_publish_seconds": 0.3,
    "earlybell_store_seconds": 1.0,
    "earlybell_broker_probe_seconds": 0.5,
    "earlybell_database_probe_seconds": 0.5,
}
#: The growth since the last look above which a counter is a sign of a fault.
FAILURES = {
    "earlybell_retries_total": 0.0,
    "earlybell_worker_restarts_total": 0.0,
    "earlybell_commit_failures_total": 0.0,
    "earlybell_partitions_reopened_total": 0.0,
    "earlybell_broker_connections_lost_total": 0.0,
    "earlybell_database_connections_lost_total": 0.0,
    "earlybell_event_loop_stalled_seconds_total": 0.5,
}
REACHABLE = {
    Role.SCORING: ("earlybell_broker_reachable",),
    Role.STORING: ("earlybell_broker_reachable", "earlybell_database_reachable"),
}
NO_ANSWER = "no answer"
STARTED = "process_start_time_seconds"

Values = Mapping[str, float]


class Watch:
    """Waits for the first sign of one fault.

    Attributes
    ----------
    sign
        The role and what it showed, None if there was nothing so far.
    after_s
        How long after the fault began.
    """

    def __init__(self) -> None:
        self.sign: tuple[Role, str] | None = None
        self.after_s = 0.0
        self._began = time.monotonic()
        self._seen = asyncio.Event()

    def notice(self, role: Role, signs: Sequence[str]) -> None:
        """Take note of what a role shows."""
        if signs and self.sign is None:
            self.sign, self.after_s = (role, signs[0]), time.monotonic() - self._began
            self._seen.set()

    async def seen(self, timeout_s: float) -> bool:
        """Wait for a sign; return False if none comes."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._seen.wait(), timeout_s)
        return self.sign is not None


@dataclass
class Witness:
    """Looks at both roles.

    Attributes
    ----------
    signs
        What each role's latest look shows of a fault; empty if all is well.
    """

    ports: Mapping[Role, int]
    signs: dict[Role, Sequence[str]] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    _values: dict[Role, Values] = field(default_factory=dict)

    @property
    def calm(self) -> bool:
        """Whether neither role shows anything."""
        return len(self.signs) == len(self.ports) and not any(self.signs.values())

    def ready(self, role: Role) -> bool:
        """Whether the role answers and is ready."""
        return role in self.signs and not any(sign.startswith((NO_ANSWER, "/readyz")) for sign in self.signs[role])

    async def calm_within(self, timeout_s: float) -> bool:
        """Wait until neither role has shown anything for two looks; return False if it takes longer."""
        deadline, looks = time.monotonic() + timeout_s, 0
        while looks < 2:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
            looks = looks + 1 if self.calm else 0
        return True

    async def look_for_ever(self, role: Role) -> None:
        """Look at a role once a second."""
        while True:
            signs = await asyncio.to_thread(self._look, role)
            self.signs[role] = signs
            self.watch.notice(role, signs)
            await asyncio.sleep(LOOK_EVERY_S)

    def _look(self, role: Role) -> Sequence[str]:
        port = self.ports[role]
        try:
            problems = [f"{page}: {line}" for page in ("/livez", "/readyz") for line in _problems(port, page)]
            values = dict(_values(_get(port, "/metrics")[1]))
        except (OSError, http.client.HTTPException) as error:
            return [f"{NO_ANSWER} ({type(error).__name__})"]
        before = self._values.get(role, values)
        self._values[role] = values
        return [*_told(role, before, values), *problems]


@asynccontextmanager
async def witness(ports: Mapping[Role, int]) -> AsyncIterator[Witness]:
    """Look at the roles on these ports for as long as an ``async with``."""
    looking = Witness(ports)
    tasks = [asyncio.create_task(looking.look_for_ever(role)) for role in ports]
    try:
        yield looking
    finally:
        for task in tasks:
            task.cancel()


def _told(role: Role, before: Values, now: Values) -> Iterator[str]:
    """Yield the metrics that are signs of a fault, each as a condition."""
    if now[STARTED] != before.get(STARTED):
        yield f"{STARTED} changed"
        return
    yield from (f"{name} = 0" for name in REACHABLE[role] if now[name] == 0.0)
    for key, value in now.items():
        name = key.partition("{")[0]
        if value - before.get(key, 0.0) > FAILURES.get(name, float("inf")):
            yield f"{key} rose"
        if value > TOO_HIGH.get(name, float("inf")):
            yield f"{name} > {TOO_HIGH[name]:g}"
    for name, limit in TOO_SLOW.items():
        count = now[f"{name}_count"] - before.get(f"{name}_count", 0.0)
        if count and (now[f"{name}_sum"] - before.get(f"{name}_sum", 0.0)) / count > limit:
            yield f"mean {name} > {limit:g}"


def _problems(port: int, page: str) -> Sequence[str]:
    status, body = _get(port, page)
    # Without its figures and details, so that the same problem is the same line.
    return [] if status == http.client.OK else [re.sub(r"\d+", "N", line[:60]) for line in body.splitlines()]


def _values(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            yield sample.name + (f"{{{labels}}}" if labels else ""), sample.value


def _get(port: int, page: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
