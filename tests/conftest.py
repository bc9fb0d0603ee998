"""Fixtures that the tests of all rooms share: a real Kafka, a real Postgres, and the data beside the repository.

The servers are those of the local stack, in a temporary home, one pair for each process that runs tests (``make test``
starts several); where ``EARLYBELL_KAFKA_BOOTSTRAP`` or ``EARLYBELL_DATABASE_URL`` is set, all use that server instead.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import psycopg2
import pytest

from earlybell.deploy.local import stack
from earlybell.deploy.local.stack import Stack
from earlybell.inference.kernels import build

ROOT = Path(__file__).resolve().parents[1]

# Never test kernels that are older than their sources.
build.main([])

# The time that an example takes depends on how busy the machine is, and proves nothing.
hypothesis.settings.register_profile(
    "unhurried", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# A shell that starts a run in the background lets it ignore Ctrl-C, and so would every process that the tests start
# in order to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep commands away from the user's stack, and those of parallel workers from each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EARLYBELL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def private_stack() -> Iterator[Stack]:
    """A Kafka and a Postgres for this process alone."""
    with stack.running() as servers:
        yield servers


@pytest.fixture(scope="session")
def kafka_bootstrap(private_stack: Stack) -> str:
    """``host:port`` of the brokers."""
    return private_stack.kafka_bootstrap


@pytest.fixture(scope="session")
def database_url(private_stack: Stack) -> str:
    """The server's database, shared by all its tests: for a database of your own take `fresh_database`."""
    return private_stack.database_url


@pytest.fixture
def fresh_database(database_url: str) -> Iterator[str]:
    """The URL of a new, empty database, which is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    parts = urlsplit(database_url)
    plain = urlunsplit(parts._replace(scheme="postgresql"))
    with closing(psycopg2.connect(plain)) as server:
        server.autocommit = True
        with server.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
            yield urlunsplit(parts._replace(path=f"/{name}"))
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for the names of topics, groups and clients that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}-"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data sets beside the repository (or in ``EARLYBELL_DATA``); without them the test is skipped."""
    data = Path(os.environ.get("EARLYBELL_DATA") or ROOT.parent / "shared" / "data")
    if not data.is_dir():
        pytest.skip(f"no data in {data}: set EARLYBELL_DATA to the directory that has it")
    return data
