"""The writer when servers fail over, hang, or refuse a row: on servers of its own, since it changes their settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from earlybell.deploy.local import postgres, processes
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience
from earlybell.storage import migrations
from earlybell.storage.exceptions import StorageUnavailable
from earlybell.storage.writer import Writer, Written
from tests.storage.conftest import engine_of, execute, news_row, signal_row


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers with the schema, and one user and password."""
    started: list[Server] = []
    try:
        for name in ("one", "two"):
            server = postgres.start(tmp_path_factory.mktemp(name), started.append, Patience(90), lasting=False)
            execute(server.address, "ALTER USER earlybell PASSWORD 'hush'")
            migrations.upgrade(url(server))
        yield started
    finally:
        for server in started:
            if server.pid is not None and server.mark is not None:
                processes.stop(server.pid, server.mark, server.stop_signal)


def url(*servers: Server) -> str:
    hosts = ",".join(server.address.rsplit("@", 1)[1].split("/")[0] for server in servers)
    return f"postgresql://earlybell:hush@{hosts}/earlybell"


def count(server: Server) -> int:
    engine = engine_of(url(server))
    with engine.connect() as connection:
        rows = int(connection.scalar(text("SELECT count(*) FROM news")) or 0)
    engine.dispose()
    return rows


def test_a_server_that_turns_read_only_is_left_for_the_new_primary(servers: list[Server]) -> None:
    old, new = servers
    with Writer(url(old, new)) as writer:
        assert writer.write_news([news_row(0)]) == Written(1)
        execute(url(old), "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            with pytest.raises(StorageUnavailable, match="read-only"):
                for number in range(100, 200):  # the setting takes a moment to reach the connection
                    writer.write_news([news_row(number)])
                    time.sleep(0.05)
            assert writer.write_news([news_row(1)]) == Written(1)
        finally:
            reset = "ALTER SYSTEM RESET default_transaction_read_only"
            execute(url(old), "SET default_transaction_read_only = off", reset, "SELECT pg_reload_conf()")
    assert count(old) >= 1
    assert count(new) == 1


def test_a_statement_that_hangs_is_given_up(servers: list[Server]) -> None:
    server = servers[0]
    engine = engine_of(url(server))
    with Writer(url(server), statement_timeout_s=1.0) as writer:
        with engine.begin() as blocker:
            blocker.execute(text("LOCK TABLE signals IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(StorageUnavailable, match="statement timeout"):
                writer.write_signals([signal_row()])
        assert writer.write_signals([signal_row()]) == Written(1)
    engine.dispose()


def test_a_refused_row_does_not_put_the_batch_into_the_servers_log(servers: list[Server]) -> None:
    server = servers[0]
    assert server.log is not None
    log = Path(server.log)
    before = log.stat().st_size
    rows = [news_row(number, headline=f"Confidential {number:04d}") for number in range(1_000, 1_300)]
    rows[150] |= {"offset": -1}
    known = rows[:100]
    with Writer(url(server)) as writer:
        assert writer.write_news(known) == Written(100)
        assert writer.write_news(rows).new == 199
    written = log.read_bytes()[before:].decode()
    assert "ck_news_origin" in written, "the server logs the error"
    assert len(written) < 5_000, "and little more"
    assert written.count("Confidential") <= 3, "of the rows, at most the one at fault"


#: What a server in trouble says: disk full, out of memory, too many connections, shutting down, a deadlock, a lock that
#: was not to be had, a failed serialization, an error of its disk.
TROUBLES = ("53100", "53200", "53300", "57P01", "40P01", "55P03", "40001", "58030")


@pytest.mark.parametrize("state", TROUBLES)
def test_trouble_of_the_server_is_never_the_rows_fault(servers: list[Server], state: str) -> None:
    server = servers[1]
    number = 20_000 + TROUBLES.index(state)
    rows = [news_row(1_000 * number + one) for one in range(3)]
    execute(
        url(server),
        "CREATE OR REPLACE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION 'in trouble' USING ERRCODE = '{state}'; END $$",
        "CREATE TRIGGER trouble BEFORE INSERT ON news FOR EACH ROW EXECUTE FUNCTION trouble()",
    )
    with Writer(url(server)) as writer:
        try:
            with pytest.raises(StorageUnavailable, match="in trouble"):
                writer.write_news(rows)
        finally:
            execute(url(server), "DROP TRIGGER trouble ON news")
        assert writer.write_news(rows) == Written(3), "and once it is over all rows are stored"
