"""One role in one process: its probes, its pool or its tables, and its pipeline, from start to stop.

A killed role should be back soon, and most of its start is spent on imports. So the pool's workers start first and load
the model while this process imports Faust and prepares the broker.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog
import uvloop

from earlybell.streams import metrics
from earlybell.streams.model import open_pool
from earlybell.streams.probes import Probes, serving
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings

if TYPE_CHECKING:
    from earlybell.streams.app import Pipeline

log = structlog.get_logger(__name__)

#: Python looks for reference cycles after this many new objects instead of 700: here those are messages that wait, by
#: the thousand, and have no cycles.
COLLECT_AFTER = 20_000


def run(role: Role, settings: Settings, member: str | None = None) -> int:
    """Run one role in this process until SIGTERM or SIGINT: the body of `earlybell run --role ROLE`."""

    if role is Role.STORING:
        os.nice(settings.store_niceness)  # of this thread, and of those that it starts

    async def main() -> int:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await serve(role, settings, stop, member)

    return uvloop.run(main())


async def serve(role: Role, settings: Settings, stop: asyncio.Event, member: str | None = None) -> int:
    """Run one role until `stop` is set. Return 0, or 1 if the app crashed, so that a supervisor restarts it.

    Parameters
    ----------
    member
        The role's name in its consumer group, if only this process uses it: an older member of that name is dead.

    Raises
    ------
    BrokerError, TopicError
        No broker answers, or a topic is not what the answers depend on.
    PoolError
        The checkpoint cannot be loaded, or a device does not exist.
    StorageError
        The database cannot be reached, or its schema is not this version's.
    """
    probes = Probes(role, settings)
    async with AsyncExitStack() as resources:
        await resources.enter_async_context(serving(probes, settings.probe_port(role)))
        prepare = _prepare_scoring if role is Role.SCORING else _prepare_storing
        preparing = asyncio.create_task(prepare(settings, member, probes, resources))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((preparing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():
            preparing.cancel()
            return 0
        stopping.cancel()
        pipeline = await preparing
        probes.app, probes.windows = pipeline.app, pipeline.windows
        from earlybell.streams.app import run_pipeline

        # What is loaded by now stays. A full collection of it stops the role for a tenth of a second and finds nothing.
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        return await run_pipeline(pipeline, stop)


async def _prepare_scoring(
    settings: Settings, member: str | None, probes: Probes, resources: AsyncExitStack
) -> Pipeline:
    probes.pool = pool = open_pool(settings)
    resources.push_async_callback(pool.stop)
    log.info("model_load_started", devices=settings.devices)
    model, _ = await asyncio.gather(pool.start(), asyncio.to_thread(_prepare, Role.SCORING, settings, member))
    log.info(
        "model_loaded",
        model=model.model,
        revision=model.served_revision,
        policy=model.policy,
        device=model.device,
        kernels=model.kernels,
    )
    from earlybell.streams.app import scoring_pipeline

    return scoring_pipeline(settings, pool, member)


async def _prepare_storing(
    settings: Settings, member: str | None, probes: Probes, resources: AsyncExitStack
) -> Pipeline:
    # SQLAlchemy takes as long to import as everything that the scoring role needs.
    from earlybell.storage import schema
    from earlybell.storage.writer import Writer

    log.info("database_check_started")
    await asyncio.to_thread(_prepare, Role.STORING, settings, member)
    await asyncio.to_thread(schema.check, settings.database)

    def writer() -> Writer:
        return Writer(
            settings.database,
            statement_timeout_s=settings.store_timeout_s,
            connection_lost=metrics.DATABASE_CONNECTIONS_LOST.inc,
        )

    news, signals = probes.writers = resources.enter_context(writer()), resources.enter_context(writer())
    from earlybell.streams.app import storing_pipeline

    return storing_pipeline(settings, news, signals, member)


def _prepare(role: Role, settings: Settings, member: str | None) -> None:
    """Import what the pipeline needs, and prepare the broker for the role."""
    from earlybell.streams.languages import load_identifier
    from earlybell.streams.membership import remove_predecessors
    from earlybell.streams.topics import check_topics, create_topics

    importlib.import_module("earlybell.streams.app")
    if role is Role.SCORING:
        load_identifier()
    create_topics(settings)
    check_topics(settings)
    if member is not None:
        remove_predecessors(settings, settings.consumer_group(role), member)
