"""``python -m tests.faults.soak``: both roles under continuous load and random faults, and an account at the end.

The seed decides which faults come, in which order, for how long and how far apart; the same seed repeats them. The
moments at which they hit depend on the machine. Each fault is a line of JSON on the standard output, with the first
sign of it that an observer of the roles' probes and metrics saw. A fault that began while another was still to be seen
is marked as not calm: its sign may be the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from kafka.errors import KafkaError
from pydantic import SecretStr

from earlybell.deploy.local import processes
from earlybell.inference.kernels import build
from earlybell.storage import migrations
from earlybell.streams import supervisor
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.supervisor import Roles
from tests.faults import full_disk
from tests.faults.account import Account, account
from tests.faults.full_disk import Disk, NoDisk
from tests.faults.injection import Fault, Faults
from tests.faults.load import Load
from tests.faults.mutations import MUTATIONS, Mutation, change_the_database, package_with
from tests.faults.own_servers import own_servers
from tests.faults.tcp_proxy import proxy
from tests.faults.witness import Watch, Witness, witness
from tests.integration.whole_pipeline import count
from tests.own_topics import as_environment, own_topics
from tests.streams.chunk_workers import committed, ends

#: Limits for the roles to start, for a fault to be seen after it is over, for the roles to recover from it, and for the
#: roles to make progress at the end. They suit slow machines; nothing waits longer than necessary.
START_S, SEEN_S, CALM_S, RECOVERY_S = 180.0, 10.0, 90.0, 600.0
#: The share of faults that do not wait for the one before to be over, and how long they wait instead.
OVERLAPPING, PAUSE_S = 0.3, (0.2, 6.0)
#: Rapid: the pause after each fault, the factor of its drawn duration, and the longest back-off of a role that died, so
#: that the next fault finds it running.
RAPID_PAUSE_S, RAPID_PACE, RAPID_BACKOFF_S = (0.5, 1.0), 1 / 3, 1.0
#: The size of the tables' disk while it is not full.
DISK_MEGABYTES = 4_096
#: A fault that takes longer, including the start of servers, has failed.
FAULT_S = 240.0


@dataclass(frozen=True)
class Result:
    """What a soak found.

    Attributes
    ----------
    faults
        How often each kind was injected.
    ended
        How many processes they ended, by kind and manner.
    failures
        How many faults could not be completed, which is the soak's own failure.
    stored_under_fire
        Rows of stories in the table when the last fault was over.
    """

    faults: Counter[str]
    ended: Counter[str]
    failures: int
    stored_under_fire: int
    revisions: int
    broken: int
    account: Account


async def soak(
    seed: int,
    faults: int,
    log: Path,
    *,
    rapid: bool = False,
    minutes: float = float("inf"),
    each: bool = False,
    mutation: Mutation | None = None,
) -> Result:
    """Run both roles under load through this many faults.

    Parameters
    ----------
    log
        Where the roles write their logs.
    rapid
        Start each fault within a second of the one before, even if that is not over, and make it last a third as long:
        many more faults, and less to learn from each.
    minutes
        Start no new fault after this long.
    each
        Inject this many faults of each kind, one after the other, instead of random ones.
    mutation
        A change with which the account must be wrong.
    """
    with (
        _disk() as disk,
        own_servers() as servers,
        log.open("wb") as output,
        package_with(mutation) as mutated,
    ):
        if disk is None:
            _report(warning="no disk can be mounted here: the faults that fill it are left out")
        else:
            disk.hold_the_tables_of(servers.stack.database_url)
        migrations.upgrade(servers.stack.database_url)
        if mutation is not None and mutation.sql:
            change_the_database(mutation, servers.stack.database_url)
        direct = own_topics(
            servers.stack.kafka_bootstrap,
            database_url=servers.stack.database_url,
            kafka_timeout_s=5.0,
            store_timeout_s=10.0,
        )
        async with AsyncExitStack() as stack:
            if rapid:
                stack.enter_context(patch.object(supervisor, "LONGEST_BACKOFF_S", RAPID_BACKOFF_S))
            network = await stack.enter_async_context(servers.proxy())
            database_network = await stack.enter_async_context(proxy(servers.database_port))
            ports = {role: processes.free_port() for role in Role}
            proxied = {
                "kafka_bootstrap": servers.proxied_bootstrap,
                "database_url": SecretStr(servers.database_through(database_network.port)),
            }
            own = as_environment(direct.model_copy(update=proxied | {f"{role}_port": ports[role] for role in Role}))
            anothers = as_environment(direct.model_copy(update=proxied))
            roles = await stack.enter_async_context(Roles(environment={**own, **mutated}, output=output))
            seen = await stack.enter_async_context(witness(ports))
            if not await seen.calm_within(START_S):
                raise RuntimeError(f"the roles did not become ready: {seen.signs}; see {log}")
            load = Load(direct)
            loading = asyncio.create_task(asyncio.to_thread(load.run))
            faulty = Faults(
                servers,
                network,
                database_network,
                roles,
                another=lambda role: Roles((role,), {**anothers, **mutated}, output),
                load=load,
                disk=disk,
                ready=seen.ready,
                pace=RAPID_PACE if rapid else 1.0,
            )
            injection = Injection(faulty, seed, seen, rapid=rapid, each=each)
            try:
                await injection.run(faults, time.monotonic() + 60.0 * minutes)
            except Exception as error:  # the account of the faults so far is still wanted
                injection.failures += 1
                _report(error=repr(error))
            finally:
                load.stop()
            stored = await asyncio.to_thread(count, direct, "news")
            await loading
            if not await _worked_off(direct):
                _report(error=f"the roles made no progress for {RECOVERY_S:.0f} s", signs=seen.signs, log=str(log))
            found = await asyncio.to_thread(account, direct, load.given)
    return Result(
        injection.drawn,
        faulty.ended,
        injection.failures,
        stored,
        len(load.given.revisions),
        len(load.given.broken),
        found,
    )


@contextmanager
def _disk() -> Iterator[Disk | None]:
    """Mount the disk of the tables; yield None if it cannot be mounted."""
    with ExitStack() as stack:
        try:
            mounted = stack.enter_context(full_disk.disk(DISK_MEGABYTES))
        except NoDisk:
            mounted = None
        yield mounted


class Injection:
    """Injects faults, one after the other, and reports each.

    Attributes
    ----------
    drawn
        How often each kind was injected.
    failures
        How many could not be completed.
    """

    def __init__(self, faults: Faults, seed: int, seen: Witness, *, rapid: bool, each: bool = False) -> None:
        self._faults, self._seed, self._seen, self._rapid, self._each = faults, seed, seen, rapid, each
        self.drawn: Counter[str] = Counter()
        self.failures = 0

    async def run(self, count: int, deadline: float) -> None:
        """Inject this many faults, none after the deadline, and report how each kind was seen."""
        shown: dict[str, list[Watch]] = defaultdict(list)
        weights = self._faults.weights()
        for number in range(count * len(weights) if self._each else count):
            if time.monotonic() > deadline:
                _report(number=number, error="no time was left for the rest of the faults")
                break
            draw = random.Random(f"{self._seed}/{number}")
            fault = draw.choices(list(weights), list(weights.values()))[0]
            overlapping = draw.random() < OVERLAPPING or self._rapid
            if self._each:
                fault, overlapping = list(weights)[number % len(weights)], False
            pause_s = draw.uniform(*(RAPID_PAUSE_S if self._rapid else PAUSE_S))
            calm, watch = self._seen.calm, Watch()
            self._seen.watch = watch
            await self._inject(number, fault, draw, watch, None if overlapping else CALM_S, calm=calm)
            if overlapping:
                await asyncio.sleep(pause_s)
            if calm:
                shown[fault.__name__].append(watch)
        for name, watches in sorted(shown.items()):
            _report(kind=name, **_summary(watches))

    async def _inject(
        self, number: int, fault: Fault, draw: random.Random, watch: Watch, calm_s: float | None, *, calm: bool
    ) -> None:
        """Inject one fault; wait until it was seen and all is well again, unless `calm_s` is None."""
        began, gone_after = time.monotonic(), None
        try:
            async with asyncio.timeout(FAULT_S):
                await fault(draw)
            self.drawn[fault.__name__] += 1
        except NoDisk:
            return
        except Exception as error:  # the account of all other faults is still wanted
            self.failures += 1
            _report(number=number, fault=fault.__name__, error=repr(error))
            await self._faults.heal()
        lasted = time.monotonic() - began
        if calm_s is not None:
            await watch.seen(SEEN_S)
            over = time.monotonic()
            if await self._seen.calm_within(calm_s):
                gone_after = round(time.monotonic() - over, 1)
            else:
                _report(number=number, error=f"not well {calm_s:.0f} s after the fault", signs=self._seen.signs)
        sign = watch.sign and " ".join(watch.sign)
        _report(
            number=number,
            fault=fault.__name__,
            calm=calm,
            lasted_s=round(lasted, 1),
            sign=sign,
            after_s=round(watch.after_s, 1) if sign else None,
            gone_after_s=gone_after,
        )


def _summary(watches: Sequence[Watch]) -> Mapping[str, object]:
    """Return how often a kind of fault was seen, by what first, and how soon."""
    delays = [watch.after_s for watch in watches if watch.sign]
    signs = Counter(watch.sign[1] for watch in watches if watch.sign)
    return {
        "times": len(watches),
        "seen": len(delays),
        "signs": dict(signs.most_common()),
        "median_s": round(statistics.median(delays), 1) if delays else None,
        "longest_s": round(max(delays), 1) if delays else None,
    }


async def _worked_off(settings: Settings) -> bool:
    """Wait until both roles have processed everything; return False if they make no progress for a while."""
    read = [(Role.SCORING, settings.news_topic), (Role.STORING, settings.news_topic)]
    read.append((Role.STORING, settings.sentiment_topic))

    def left() -> int:
        return sum(
            sum(ends(settings, topic).values()) - sum(committed(settings, role, topic).values()) for role, topic in read
        )

    fewest, deadline = None, time.monotonic() + RECOVERY_S
    while time.monotonic() < deadline:
        with suppress(KafkaError):
            now = await asyncio.to_thread(left)
            if now <= 0:  # less than nothing, where offsets are committed that do not exist
                return True
            if fewest is None or now < fewest:
                fewest, deadline = now, time.monotonic() + RECOVERY_S
        await asyncio.sleep(1.0)
    return False


def _report(**entries: object) -> None:
    print(json.dumps({"time": round(time.time(), 1), **entries}), flush=True)


def main() -> int:
    """Run the soak on the command line; return 1 if anything was lost, doubled or wrong, or if a fault failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, help="which faults come (default: a random number)")
    parser.add_argument("--faults", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--each", action="store_true", help="as many of each kind, one after the other")
    parser.add_argument("--rapid", action="store_true", help="shorter faults that do not wait for one another")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no fault after this long")
    parser.add_argument("--mutation", choices=MUTATIONS, help="break a promise: the account must then be wrong")
    parser.add_argument("--log", type=Path, default=Path("soak.log"), help="where the roles write (default: soak.log)")
    arguments = parser.parse_args()
    # Otherwise outdated kernels, or none, would be tested.
    build.main([])
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**31)
    options = "".join(f" --{name}" for name in ("rapid", "each") if getattr(arguments, name))
    broken = f" --mutation {arguments.mutation}" if arguments.mutation else ""
    print(f"seed {seed}: repeat with --seed {seed} --faults {arguments.faults}{options}{broken}", flush=True)
    result = asyncio.run(
        soak(
            seed,
            arguments.faults,
            arguments.log,
            rapid=arguments.rapid,
            minutes=arguments.minutes,
            each=arguments.each,
            mutation=MUTATIONS.get(arguments.mutation),
        )
    )
    _report(seed=seed, **{name: value for name, value in vars(result).items() if name != "account"})
    print(result.account, flush=True)
    return 0 if result.account and not result.failures else 1


if __name__ == "__main__":
    sys.exit(main())
