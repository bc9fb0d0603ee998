"""A broker that accepts TLS only, and only from clients with a certificate of its authority."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from earlybell.inference.pool.pool import Pool
from earlybell.streams import app
from earlybell.streams.exceptions import BrokerError, CommandError
from earlybell.streams.settings import Settings
from earlybell.streams.topics import check_topics
from tests.benchmarks.constant_scorer import ConstantScorer
from tests.faults.own_servers import OwnServers, own_servers
from tests.integration.whole_pipeline import messages, running
from tests.own_topics import own_topics
from tests.streams.chunk_workers import committed, ends, publish, until

PASSWORD = "it's a secret"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, a client's, and its key, encrypted."""
    directory = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    client = authority.issue_cert("trader@example.com")
    client.cert_chain_pems[0].write_to_path(directory / "client.pem")
    encryption = serialization.BestAvailableEncryption(PASSWORD.encode())
    (directory / "client.key").write_bytes(pkcs8(client.private_key_pem.bytes(), encryption))
    return directory


def pkcs8(key: bytes, encryption: serialization.KeySerializationEncryption) -> bytes:
    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="module")
def servers(authority: trustme.CA, files: Path) -> Iterator[OwnServers]:
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    keys = pkcs8(certificate.private_key_pem.bytes(), serialization.NoEncryption())
    (files / "broker.pem").write_bytes(keys + chain)
    with own_servers(
        tls={
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(files / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(files / "ca.pem"),
            "ssl.client.auth": "required",
        }
    ) as started:
        yield started


@pytest.fixture
def plain(servers: OwnServers) -> Settings:
    return own_topics(servers.stack.kafka_bootstrap)


@pytest.fixture
def secure(servers: OwnServers, plain: Settings, files: Path) -> Settings:
    """Settings that reach the listener with a certificate."""
    certificates = {
        "kafka_security_protocol": "SSL",
        "kafka_ca_file": files / "ca.pem",
        "kafka_cert_file": files / "client.pem",
        "kafka_key_file": files / "client.key",
        "kafka_key_password": PASSWORD,
    }
    values = plain.model_dump() | certificates | {"kafka_bootstrap": servers.proxied_bootstrap}
    return Settings(**values)


async def test_every_client_shows_its_certificate(servers: OwnServers, secure: Settings, plain: Settings) -> None:
    story = {"id": "a", "headline": "Acme beats", "published_at": "2026-01-05T09:30:00Z"}
    async with servers.proxy(), Pool(ConstantScorer, ["cpu"]) as pool, running(app.scoring_pipeline(secure, pool)):
        publish(plain, [json.dumps(story).encode()] * 10)
        await until(lambda: committed(plain) == ends(plain))
    assert len(messages(plain, plain.sentiment_topic)) == 10


async def test_without_a_certificate_the_broker_refuses(servers: OwnServers, secure: Settings) -> None:
    anonymous = secure.model_copy(update={"kafka_cert_file": None, "kafka_key_file": None})
    async with servers.proxy():
        await asyncio.to_thread(check_topics, secure)
        with pytest.raises(BrokerError):
            await asyncio.to_thread(check_topics, anonymous)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kafka_key_password": None}, "EARLYBELL_KAFKA_KEY_PASSWORD"),
        ({"kafka_key_file": None}, "EARLYBELL_KAFKA_KEY_FILE"),
        ({"kafka_ca_file": Path(__file__)}, "EARLYBELL_KAFKA_CA_FILE"),
    ],
)
def test_a_certificate_that_cannot_be_loaded_is_named(secure: Settings, change: dict[str, object], named: str) -> None:
    with pytest.raises(CommandError, match=named) as raised:
        check_topics(secure.model_copy(update=change))
    assert "\n" not in str(raised.value)
    assert PASSWORD not in str(raised.value)
