"""The network between a role and the broker: half-open, silent, and gone. Nothing is lost, and a stop ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, ProducerClosed

from earlybell.inference.pool.pool import Pool
from earlybell.streams import app, consumer_thread, producer, transport
from earlybell.streams.producer import Outgoing
from earlybell.streams.roles import Role
from earlybell.streams.settings import Settings
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.faults.load import stories
from tests.faults.own_servers import OwnServers, own_servers
from tests.faults.tcp_proxy import proxy
from tests.integration.whole_pipeline import messages, running
from tests.own_topics import own_topics
from tests.patience import PATIENCE_S
from tests.streams.chunk_workers import committed, ends, publish, until


@pytest.fixture(scope="module")
def servers() -> Iterator[OwnServers]:
    with own_servers() as started:
        yield started


@pytest.fixture
def direct(servers: OwnServers, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings that reach the broker without the proxy; a silent one is given up soon."""
    for module in (transport, app):
        monkeypatch.setattr(module, "DRAIN_S", 2.0)
    for module in (transport, producer, consumer_thread):
        monkeypatch.setattr(module, "STOP_S", 2.0)
    return own_topics(servers.stack.kafka_bootstrap, kafka_timeout_s=2.0)


@pytest.fixture
def proxied(servers: OwnServers, direct: Settings) -> Settings:
    return direct.model_copy(update={"kafka_bootstrap": servers.proxied_bootstrap})


async def test_half_open_connections_are_given_up(servers: OwnServers, direct: Settings, proxied: Settings) -> None:
    async with servers.proxy() as network, Pool(ConstantScorer, ["cpu"]) as pool:
        scoring = app.scoring_pipeline(proxied, pool)
        async with running(scoring):
            await asyncio.to_thread(publish, direct, stories(0, 100))
            await until(lambda: scoring.counts()["signals"] >= 100)
            network.half_open()
            await asyncio.to_thread(publish, direct, stories(100, 200))
            await until(lambda: scoring.counts()["signals"] >= 200)
            await until(lambda: committed(direct) == ends(direct))
    assert {message.key for message in messages(direct, direct.sentiment_topic)} == {b"s%d" % n for n in range(200)}


async def test_an_idle_role_leaves_half_open_connections(servers: OwnServers, proxied: Settings) -> None:
    async with servers.proxy() as network, Pool(ConstantScorer, ["cpu"]) as pool:
        scoring = app.scoring_pipeline(proxied, pool)
        async with running(scoring):
            await answered(scoring)
            network.half_open()
            with pytest.raises(KafkaError):
                await scoring.app.producer.ping(1.0)
            await answered(scoring)


async def answered(pipeline: app.Pipeline) -> None:
    """Ask for the broker until it answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(KafkaError):
                await pipeline.app.producer.ping(1.0)
                return
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("during", ["work", "idleness"])
async def test_a_stop_ends_although_no_broker_answers(
    servers: OwnServers, direct: Settings, proxied: Settings, during: str
) -> None:
    async with servers.proxy() as network, Pool(ConstantScorer, ["cpu"]) as pool:
        scoring = app.scoring_pipeline(proxied, pool)
        async with asyncio.timeout(PATIENCE_S), running(scoring):
            await asyncio.to_thread(publish, direct, stories(0, 100))
            await until(lambda: scoring.counts()["signals"] >= 100)
            if during == "work":
                await asyncio.to_thread(publish, direct, stories(100, 5_000))
                await until(lambda: scoring.counts()["signals"] > 100)
            network.stall()
        assert not any(windows._windows for windows in scoring.windows)
    # What was not safe is read again.
    async with Pool(ConstantScorer, ["cpu"]) as pool, running(app.scoring_pipeline(direct, pool)):
        await until(lambda: committed(direct) == ends(direct))
    wanted = {b"s%d" % n for n in range(5_000 if during == "work" else 100)}
    assert {message.key for message in messages(direct, direct.sentiment_topic)} == wanted


async def test_a_stop_ends_although_the_sender_waits_for_metadata(
    servers: OwnServers, proxied: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was not acknowledged is sent again after the next metadata, which an abandoned client never gets."""
    monkeypatch.setattr(producer, "STOP_S", 0.2)
    waiting, wait = asyncio.Event(), AIOKafkaClient._maybe_wait_metadata

    async def observed(client: AIOKafkaClient) -> None:
        if client._md_update_fut is not None:
            waiting.set()
        await wait(client)

    monkeypatch.setattr(AIOKafkaClient, "_maybe_wait_metadata", observed)
    sender = app._app(Role.SCORING, proxied).producer
    async with servers.proxy() as network:
        await sender.start()
        await sender.send_all(proxied.sentiment_topic, [Outgoing(b"s0", b"{}")])
        client = sender._producer.client
        network.stall()
        sending = asyncio.create_task(sender.send_all(proxied.sentiment_topic, [Outgoing(b"s1", b"{}")]))
        async with asyncio.timeout(PATIENCE_S):
            while not waiting.is_set():
                client.force_metadata_update()
                await asyncio.sleep(0.02)
            await sender.stop()
            with pytest.raises(ProducerClosed):
                await sending


@pytest.mark.parametrize("old_address", ["refuses", "is silent"])
async def test_brokers_come_back_at_other_addresses(servers: OwnServers, direct: Settings, old_address: str) -> None:
    """Only the bootstrap address stays: that of a balancer before brokers which have been placed anew."""
    async with servers.proxy() as network, proxy(servers.behind) as balancer, Pool(ConstantScorer, ["cpu"]) as pool:
        balanced = direct.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{balancer.port}"})
        scoring = app.scoring_pipeline(balanced, pool)
        async with running(scoring):
            await asyncio.to_thread(publish, direct, stories(0, 100))
            await until(lambda: scoring.counts()["signals"] >= 100)
            # This listener tells clients its own port instead of the proxy's.
            balancer.lead_to(int(direct.kafka_bootstrap.rpartition(":")[2]))
            balancer.reset()
            if old_address == "refuses":
                await network.stop()
            else:
                network.stall()
            await asyncio.to_thread(publish, direct, stories(100, 200))
            await until(lambda: scoring.counts()["signals"] >= 200)
            await until(lambda: committed(direct) == ends(direct))
    assert {message.key for message in messages(direct, direct.sentiment_topic)} == {b"s%d" % n for n in range(200)}


async def test_a_network_that_resets_and_slows_loses_nothing(
    servers: OwnServers, direct: Settings, proxied: Settings
) -> None:
    async with servers.proxy() as network, Pool(ConstantScorer, ["cpu"]) as pool:
        scoring = app.scoring_pipeline(proxied, pool)
        async with running(scoring):
            await asyncio.to_thread(publish, direct, stories(0, 100))
            # A reset during the start crashes a role, which its supervisor mends.
            await until(lambda: scoring.counts()["signals"] >= 100)
            for first in range(100, 1_000, 100):
                await asyncio.to_thread(publish, direct, stories(first, first + 100))
                network.delay_s = 0.05 if first % 200 else 0.0
                network.reset()
                await asyncio.sleep(0.3)
            network.delay_s = 0.0
            await until(lambda: committed(direct) == ends(direct))
    assert {message.key for message in messages(direct, direct.sentiment_topic)} == {b"s%d" % n for n in range(1_000)}
