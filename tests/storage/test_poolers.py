"""A connection pooler between the writer and the server, which may give each transaction another session."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import make_url

from earlybell.deploy.local import processes
from earlybell.deploy.local.waiting import Patience
from earlybell.storage import asof, driver, migrations, schema
from earlybell.storage.connection import open_snapshot
from earlybell.storage.writer import Writer, Written
from tests.storage.conftest import execute, news_row

#: PgBouncer refuses every other parameter, and with it the connection: https://www.pgbouncer.org/config.html
ACCEPTED = {"user", "database", "application_name", "client_encoding", "datestyle", "timezone"}
#: Debian keeps it where only root looks.
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SEEN = ("statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")


def test_a_connection_starts_with_nothing_that_a_pooler_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        packets: list[bytes] = []

        def note_and_hang_up() -> None:
            with listener.accept()[0] as client:
                packets.append(client.recv(65_536))

        listening = threading.Thread(target=note_and_hang_up)
        listening.start()
        with pytest.raises(psycopg2.OperationalError):
            driver.connect(f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/mine?sslmode=disable", writes=True)
        listening.join()
    size, version = struct.unpack_from("!II", packets[0])
    assert (size, version >> 16) == (len(packets[0]), 3)
    names = packets[0][8:].rstrip(b"\0").decode().split("\0")[::2]
    assert {"user", "client_encoding"} <= set(names) <= ACCEPTED


def test_limits_hold_in_sessions_of_others_and_do_not_stay(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    migrations.upgrade(url)
    execute(
        url,
        "CREATE TABLE seen (setting text, value text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen"
        " SELECT name, current_setting(name) FROM unnest(TG_ARGV[0]::text[]) AS name; RETURN NULL; END $$",
        f"CREATE TRIGGER note AFTER INSERT ON news EXECUTE FUNCTION note('{{{','.join(SEEN)}}}')",
    )
    with Writer(url, statement_timeout_s=7.0) as writer:
        for number in (1, 2):
            with writer._engine.begin() as session:
                for name, value in zip(SEEN, ("1h", "2h", "off"), strict=True):
                    session.exec_driver_sql(f"SET {name} = '{value}'")
            execute(url, "TRUNCATE seen")
            assert writer.write_news([news_row(number)]) == Written(1)
            assert everything_seen(url) == [
                ("idle_in_transaction_session_timeout", "7s"),
                ("statement_timeout", "7s"),
                ("synchronous_commit", "on"),
            ]
            with writer._engine.connect() as session:
                left = [session.exec_driver_sql(f"SHOW {name}").scalar() for name in SEEN]
            assert left == ["1h", "2h", "off"]


def everything_seen(url: str) -> list[tuple[str, str]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM seen ORDER BY setting")
        return list(cursor.fetchall())


def test_a_stricter_choice_of_what_commits_wait_for_is_kept(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    execute(url, f"ALTER DATABASE {make_url(url).database} SET synchronous_commit = remote_apply")
    with closing(driver.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(driver.limits(1.0))
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("remote_apply",)


@pytest.fixture(params=["session", "transaction"])
def pooled(request: pytest.FixtureRequest, empty_database: Callable[[], str], tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database behind PgBouncer, in each of its modes."""
    if PGBOUNCER is None:
        pytest.skip("there is no pgbouncer on this machine")
    server, port = make_url(empty_database()), processes.free_port()
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={server.host} port={server.port} user={server.username} password={server.password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {request.param}\ndefault_pool_size = {4 if request.param == 'session' else 1}\n"
    )
    user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
    process = subprocess.Popen([PGBOUNCER, "-q", *user, str(settings)], stderr=subprocess.DEVNULL)
    try:
        assert Patience(30).until(lambda: answers(port), while_=lambda: process.poll() is None)
        yield server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_everything_works_through_pgbouncer(pooled: str) -> None:
    assert migrations.upgrade(pooled) == schema.latest()
    schema.check(pooled)
    with Writer(pooled, statement_timeout_s=5.0) as first, Writer(pooled, statement_timeout_s=5.0) as second:
        assert first.write_news([news_row(1), news_row(2)]) == Written(2)
        assert second.write_news([news_row(2), news_row(3)]) == Written(1)
        first.ping()
    with open_snapshot(pooled) as connection:
        assert list(asof.signals_as_of(connection, news_row(1)["ingested_at"])) == []
