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
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from kafka.errors import KafkaError
from pydantic import SecretStr

from earlybell.deploy.local import processes
from earlybell.storage import migrations
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from earlybell.streams.supervisor import Roles
from tests.faults.account import Account, account
from tests.faults.injection import Faults
from tests.faults.load import Load
from tests.faults.own_servers import own_servers
from tests.faults.tcp_proxy import proxy
from tests.faults.witness import Watch, Witness, witness
from tests.own_topics import as_environment, own_topics
from tests.streams.chunk_workers import committed, ends

#: How long the roles may take to start, a fault to show after it is over, all to be well again after a fault, and
#: everything to be processed at the end. Slow machines need them; nothing waits longer than it must.
START_S, SEEN_S, CALM_S, RECOVERY_S = 180.0, 10.0, 90.0, 600.0
#: The share of faults that do not wait for the one before to be over.
OVERLAPPING = 0.3


@dataclass(frozen=True)
class Result:
    """What a soak found."""

    faults: Counter[str]
    revisions: int
    broken: int
    account: Account


async def soak(seed: int, faults: int, log: Path, *, rapid: bool = False) -> Result:
    """Run both roles under load through this many faults.

    Parameters
    ----------
    log
        Where the roles write their logs.
    rapid
        Let each fault follow the one before within two seconds, whether that is over or not: many more, with less to
        learn of each.
    """
    with own_servers() as servers, log.open("wb") as output:
        migrations.upgrade(servers.stack.database_url)
        direct = own_topics(
            servers.stack.kafka_bootstrap,
            database_url=servers.stack.database_url,
            kafka_timeout_s=5.0,
            store_timeout_s=10.0,
        )
        async with AsyncExitStack() as stack:
            network = await stack.enter_async_context(servers.proxy())
            database_network = await stack.enter_async_context(proxy(servers.database_port))
            ports = {role: processes.free_port() for role in Role}
            proxied = {
                "kafka_bootstrap": servers.proxied_bootstrap,
                "database_url": SecretStr(servers.database_through(database_network.port)),
            }
            own = as_environment(direct.model_copy(update=proxied | {f"{role}_port": ports[role] for role in Role}))
            anothers = as_environment(direct.model_copy(update=proxied))
            roles = await stack.enter_async_context(Roles(environment=own, output=output))
            seen = await stack.enter_async_context(witness(ports))
            if not await seen.calm_within(START_S):
                raise RuntimeError(f"the roles did not become ready: {seen.signs}; see {log}")
            load = Load(direct)
            loading = asyncio.create_task(asyncio.to_thread(load.run))
            faulty = Faults(servers, network, database_network, roles, lambda role: Roles((role,), anothers, output))
            try:
                drawn = await _inject(faulty, seed, faults, seen, rapid=rapid)
            finally:
                load.stop()
            await loading
            if not await _worked_off(direct):
                _report(error=f"the roles did not catch up in {RECOVERY_S:.0f} s", signs=seen.signs, log=str(log))
            found = await asyncio.to_thread(account, direct, load.given)
    return Result(drawn, len(load.given.revisions), len(load.given.broken), found)


async def _inject(faults: Faults, seed: int, count: int, seen: Witness, *, rapid: bool) -> Counter[str]:
    """Let faults happen, report each, and return how often each kind did."""
    drawn: Counter[str] = Counter()
    shown: dict[str, list[Watch]] = defaultdict(list)
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")
        fault = draw.choices(list(faults.weights()), list(faults.weights().values()))[0]
        overlapping, pause = draw.random() < OVERLAPPING, draw.uniform(0.2, 6.0)
        if rapid:
            overlapping, pause = True, pause / 3
        name, calm = fault.__name__, seen.calm
        began, watch = time.monotonic(), Watch()
        seen.watch = watch
        await fault(draw)
        lasted = time.monotonic() - began
        gone_after = None
        if overlapping:
            await asyncio.sleep(pause)
        else:
            await watch.seen(SEEN_S)
            over = time.monotonic()
            if await seen.calm_within(CALM_S):
                gone_after = round(time.monotonic() - over, 1)
            else:
                _report(number=number, error=f"not well {CALM_S:.0f} s after the fault", signs=seen.signs)
        drawn[name] += 1
        if calm:
            shown[name].append(watch)
        sign = watch.sign and " ".join(watch.sign)
        _report(
            number=number,
            fault=name,
            calm=calm,
            lasted_s=round(lasted, 1),
            sign=sign,
            after_s=round(watch.after_s, 1) if sign else None,
            gone_after_s=gone_after,
        )
    for name, watches in sorted(shown.items()):
        _report(kind=name, **_summary(watches))
    return drawn


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
    """Wait until both roles have processed everything; return False if they do not."""
    read = [(Role.SCORING, settings.news_topic), (Role.STORING, settings.news_topic)]
    read.append((Role.STORING, settings.sentiment_topic))

    def done() -> bool:
        try:
            return all(committed(settings, role, topic) == ends(settings, topic) for role, topic in read)
        except KafkaError:
            return False

    deadline = time.monotonic() + RECOVERY_S
    while not await asyncio.to_thread(done):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(1.0)
    return True


def _report(**entries: object) -> None:
    print(json.dumps({"time": round(time.time(), 1), **entries}), flush=True)


def main() -> int:
    """Run the soak that the command line asks for; return 1 if anything was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, help="which faults come (default: a random number)")
    parser.add_argument("--faults", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--rapid", action="store_true", help="do not wait for a fault to be over")
    parser.add_argument("--log", type=Path, default=Path("soak.log"), help="where the roles write (default: soak.log)")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(2**31)
    rapid = " --rapid" if arguments.rapid else ""
    print(f"seed {seed}: repeat with --seed {seed} --faults {arguments.faults}{rapid}", flush=True)
    result = asyncio.run(soak(seed, arguments.faults, arguments.log, rapid=arguments.rapid))
    _report(seed=seed, faults=result.faults, revisions=result.revisions, broken=result.broken)
    print(result.account, flush=True)
    return 0 if result.account else 1


if __name__ == "__main__":
    sys.exit(main())
