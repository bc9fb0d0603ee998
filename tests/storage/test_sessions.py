"""Whatever a server, a role or the environment sets for sessions: rows are stored as they were sent, and they stay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest
from sqlalchemy import make_url

from earlybell.deploy.local import postgres, processes
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience
from earlybell.storage import migrations, schema
from earlybell.storage.exceptions import StorageError
from earlybell.storage.writer import Writer, Written
from tests.storage.conftest import execute, news_row

HEADLINE = "Ærø – “up 5 €” 🚀"


def headlines(url: str) -> list[str]:
    with closing(psycopg2.connect(url, client_encoding="UTF8")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT headline FROM news ORDER BY news_id")
        return [row[0] for row in cursor.fetchall()]


@pytest.mark.parametrize("where", ["environment", "database"])
def test_text_is_sent_as_utf8_whatever_clients_use_otherwise(
    empty_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    url = empty_database()
    migrations.upgrade(url)
    if where == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    else:
        execute(url, f"ALTER DATABASE {make_url(url).database} SET client_encoding = LATIN1")
    with Writer(url) as writer:
        assert writer.write_news([news_row(1, headline=HEADLINE)]) == Written(1)
        assert writer.write_news([news_row(1, headline=HEADLINE)]) == Written(0)
    assert headlines(url) == [HEADLINE]


def test_a_commit_waits_for_the_disk_although_the_server_would_not(tmp_path: Path) -> None:
    started: list[Server] = []
    try:
        server = postgres.start(tmp_path, started.append, Patience(90), lasting=True)
        migrations.upgrade(server.address)
        execute(
            server.address,
            "ALTER SYSTEM SET synchronous_commit = off",
            "ALTER SYSTEM SET wal_writer_delay = '10s'",
            "SELECT pg_reload_conf()",
        )
        with Writer(server.address) as writer:
            for number in range(20):
                assert writer.write_news([news_row(number)]) == Written(1)
            assert server.pid is not None
            postmaster = psutil.Process(server.pid)
            postmaster.suspend()
            for process in (*postmaster.children(recursive=True), postmaster):
                process.kill()
            psutil.wait_procs([postmaster])
        server = postgres.start(tmp_path, started.append, Patience(90), lasting=True)
        assert len(headlines(server.address)) == 20
    finally:
        for pid in processes.find(postgres.mark(tmp_path)):
            processes.stop(pid, postgres.mark(tmp_path), started[0].stop_signal)


@pytest.mark.parametrize("act", [schema.check, migrations.upgrade])
def test_a_database_that_cannot_hold_every_text_is_refused(database_url: str, act: Callable[[str], object]) -> None:
    url = make_url(database_url).set(database="latin1").render_as_string(hide_password=False)
    execute(database_url, "CREATE DATABASE latin1 ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StorageError, match="UTF8"):
            act(url)
    finally:
        execute(database_url, "DROP DATABASE latin1")
