"""The migrations on a real server: they build the schema of `storage.tables`, however many processes run them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from earlybell.storage import asof, migrations, schema
from earlybell.storage.exceptions import SchemaMismatch, StorageError, StorageUnavailable
from earlybell.storage.tables import metadata
from earlybell.storage.writer import Writer, Written
from tests.storage.conftest import engine_of, news_row, signal_row

# What information_schema and Alembic's comparison omit: constraints, index definitions and comments, as Postgres prints
# them.
CATALOGUE = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relname IN ('news', 'signals')
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL
FROM pg_constraint WHERE conrelid::regclass::text IN ('news', 'signals')
UNION ALL
SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL FROM pg_indexes
WHERE tablename IN ('news', 'signals')
UNION ALL
SELECT 'table', relname, obj_description(oid), NULL, NULL, NULL, NULL FROM pg_class WHERE relname IN ('news', 'signals')
ORDER BY 1, 2, 3
"""


def catalogue(url: str) -> list[tuple[Any, ...]]:
    engine = engine_of(url)
    with engine.connect() as connection:
        entries = [tuple(row) for row in connection.execute(text(CATALOGUE))]
    engine.dispose()
    return entries


def objects(url: str) -> list[tuple[str, str]]:
    """Return every relation and function in the schema."""
    engine = engine_of(url)
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT 'relation', relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
                " ORDER BY 1, 2"
            )
        )
        names = [(row[0], row[1]) for row in rows]
    engine.dispose()
    return names


@pytest.fixture
def empty(empty_database: Callable[[], str]) -> str:
    return empty_database()


def test_the_migrated_schema_is_the_one_in_tables_py(empty: str, empty_database: Callable[[], str]) -> None:
    migrations.upgrade(empty)
    engine = engine_of(empty)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": True, "version_table": schema.VERSION_TABLE},
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()

    from_metadata = empty_database()
    engine = engine_of(from_metadata)
    metadata.create_all(engine)
    engine.dispose()
    assert len(catalogue(empty)) > 60
    assert catalogue(empty) == catalogue(from_metadata)


def test_every_column_has_a_comment() -> None:
    for table in metadata.sorted_tables:
        assert table.comment
        assert [column.name for column in table.columns if not column.comment] == []


def test_up_down_and_up_again(empty: str) -> None:
    assert schema.current(empty) is None
    latest = migrations.upgrade(empty)
    assert schema.current(empty) == latest
    first = objects(empty)
    assert migrations.upgrade(empty) == latest  # again: nothing to do

    migrations.downgrade(empty)
    assert schema.current(empty) is None
    assert objects(empty) == [
        ("relation", schema.VERSION_TABLE),
        ("relation", f"{schema.VERSION_TABLE}_pkc"),
    ]

    migrations.upgrade(empty)
    assert objects(empty) == first


def test_each_single_step_down_and_up(empty: str) -> None:
    latest = migrations.upgrade(empty)
    first = objects(empty)
    migrations.downgrade(empty, "-1")
    assert schema.current(empty) not in {latest, None}
    assert migrations.upgrade(empty) == latest
    assert objects(empty) == first


def test_signals_of_earlier_versions_survive_an_upgrade(empty: str) -> None:
    migrations.upgrade(empty)
    migrations.downgrade(empty, "r0002")
    engine = engine_of(empty)
    old = {name: value for name, value in signal_row().items() if name != "text_hash"}
    with engine.begin() as connection:
        connection.execute(metadata.tables["news"].insert(), news_row())
        names = ", ".join(f'"{name}"' for name in old)
        values = ", ".join(f":{name}" for name in old)
        old_row = old | {"probabilities": json.dumps(old["probabilities"])}
        connection.execute(text(f"INSERT INTO signals ({names}) VALUES ({values})"), old_row)
    migrations.upgrade(empty)
    schema.check(empty)
    with engine.connect() as connection:
        assert dict(connection.execute(metadata.tables["signals"].select()).mappings().one()) == old | {
            "text_hash": None
        }
        [known] = asof.signals_as_of(connection, datetime(2027, 1, 1, tzinfo=UTC))
        assert known._mapping["text_hash"] is None
    engine.dispose()
    with Writer(empty) as writer:
        # The same news, scored again by this version: the old answer stays, and is not taken for another text's.
        again = signal_row(signal_id="of this version")
        assert writer.write_signals([again, signal_row(1)]) == Written(1)


def test_workers_that_start_together_upgrade_once(empty: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(migrations.upgrade, [empty] * 8)) == {schema.current(empty)}
    schema.check(empty)


def test_check_says_how_to_upgrade_a_database_that_is_behind(empty: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"has no schema.*earlybell db upgrade"):
        schema.check(empty)
    migrations.upgrade(empty)
    schema.check(empty)
    migrations.downgrade(empty, "-1")
    with pytest.raises(SchemaMismatch, match=r"is at schema r\d+.*earlybell db upgrade"):
        schema.check(empty)


def test_a_database_of_a_newer_version_is_refused(empty: str) -> None:
    migrations.upgrade(empty)
    engine = engine_of(empty)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = 'r9999'"))
    engine.dispose()
    for function in (schema.check, migrations.upgrade):
        with pytest.raises(SchemaMismatch, match="install the newer version"):
            function(empty)


def test_a_server_that_is_too_old_is_refused(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "OLDEST_POSTGRES", 1_000)
    with pytest.raises(StorageError, match=r"is PostgreSQL \d+; 1000 or newer is required"):
        migrations.upgrade(empty)
    assert objects(empty) == []


def test_a_missing_database(database_url: str) -> None:
    absent = make_url(database_url).set(database="no_such_database").render_as_string(hide_password=False)
    for function in (schema.check, migrations.upgrade, schema.current):
        with pytest.raises(StorageUnavailable, match=r'database "no_such_database" does not exist$'):
            function(absent)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "cannot be parsed"),
        ("127.0.0.1:5432", "cannot be parsed"),
        ("sqlite:///signals.db", "sqlite databases are not supported"),
        ("postgresql://u:hush@localhost:port/db", "cannot be parsed"),
    ],
)
def test_an_invalid_url(url: str, reason: str) -> None:
    with pytest.raises(StorageError, match=reason) as caught:
        migrations.upgrade(url)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["postgres://reader:hush@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db?user=reader&password=hush"],
)
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        migrations.upgrade(url)
    assert "127.0.0.1:1/db" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", ["news", "signals"])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {} SET symbols = '{{}}'",
        "DELETE FROM {}",
        "DELETE FROM {} WHERE false",
        "INSERT INTO {0} SELECT * FROM {0} ON CONFLICT ({1}) DO UPDATE SET source = 'another'",
    ],
)
def test_the_database_refuses_updates_and_deletes(migrated: str, table: str, change: str) -> None:
    engine = engine_of(migrated)
    row, key = (news_row(), "news_id, revision") if table == "news" else (signal_row(), "signal_id")
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {table}"))
        connection.execute(metadata.tables[table].insert(), row)
    with pytest.raises(DBAPIError, match=f"{table} is append-only"), engine.begin() as connection:
        connection.execute(text(change.format(table, key)))
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT source FROM {table}")) == "Harbour Wire"
    engine.dispose()


@pytest.fixture
def limited_user(empty: str) -> Iterator[str]:
    """The URL of a user who may create tables but no roles."""
    admin = engine_of(empty, isolation_level="AUTOCOMMIT")
    name = f"owner_of_{make_url(empty).database}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'hush'"))
        connection.execute(text(f"GRANT ALL ON SCHEMA public TO {name}"))
    yield make_url(empty).set(username=name, password="hush").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP OWNED BY {name} CASCADE"))
        connection.execute(text(f"DROP ROLE {name}"))
    admin.dispose()


@pytest.mark.parametrize("role", ["earlybell_reader", "earlybell_absent_role"])
def test_an_owner_who_may_create_no_roles_gets_the_schema(
    limited_user: str, role: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The role belongs to the whole server and may be in use, so the test cannot drop it, and uses another name.
    for name in ("_CREATE", "_GRANT"):
        statement = getattr(migrations.reader, name)
        monkeypatch.setattr(migrations.reader, name, statement.replace("earlybell_reader", role))
    with caplog.at_level(logging.WARNING):
        migrations.upgrade(limited_user)
    schema.check(limited_user)
    assert ("CREATE ROLE" in caplog.text) == (role == "earlybell_absent_role")


def test_the_reader_reads_everything_and_changes_nothing(migrated: str) -> None:
    engine = engine_of(migrated)
    for query in (
        "SELECT * FROM news",
        "SELECT * FROM signals",
        "SELECT * FROM signals_as_of(now())",
        "SELECT * FROM symbol_bars('1 hour', now() - interval '1 day', now())",
        "SELECT * FROM symbol_sentiment_as_of(now(), '1 day')",
    ):
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL ROLE earlybell_reader"))
            connection.execute(text(query))
    for change in (
        "INSERT INTO signals SELECT * FROM signals",
        "UPDATE signals SET source = NULL",
        "DELETE FROM news",
        "TRUNCATE news",
        "ALTER TABLE news DISABLE TRIGGER append_only",
        "DROP TABLE news",
    ):
        with pytest.raises(DBAPIError, match=r"permission denied|must be owner"), engine.begin() as connection:
            connection.execute(text("SET LOCAL ROLE earlybell_reader"))
            connection.execute(text(change))
    engine.dispose()


def test_the_files_of_migrations_are_the_revisions_that_alembic_finds() -> None:
    script = ScriptDirectory.from_config(migrations._config())
    found = [revision.revision for revision in script.walk_revisions()]
    assert schema.revisions() == found[::-1]
    assert schema.latest() == script.get_current_head()
