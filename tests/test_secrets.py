"""Passwords of every kind: libpq receives them unchanged, and nothing that people read shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from earlybell import masking
from earlybell.database_url import DatabaseUrl, InvalidDatabaseUrl
from earlybell.deploy.local import kafka, postgres
from earlybell.storage.exceptions import StorageError
from earlybell.storage.writer import Writer
from earlybell.streams import logs
from earlybell.streams.cli import execute
from earlybell.streams.settings import Settings
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
HOSTILE = [
    "hunter2",
    "p@ss:w/rd?#[]",
    "a b\tc",
    "quo\"te'back\\slash",
    "100%25",
    "ünïcödé-密码",
    "@",
    "://x:y@z",
    "password=inner",
    "&sslmode=disable",
    "*+.()|^$",
]
ADDRESS = "127.0.0.1:1/none"


def url(password: str) -> str:
    return f"postgresql://me:{quote(password, safe='')}@{ADDRESS}"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_remembered", set())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_libpq_receives_the_password_and_the_mask_does_not_show_it(password: str) -> None:
    parsed = DatabaseUrl.parse(url(password))
    assert parsed.parameters["password"] == password
    assert parsed.masked == f"postgresql://me:***@{ADDRESS}"
    assert parsed.address == f"postgresql://me@{ADDRESS}"
    assert repr(parsed) == "DatabaseUrl()"
    assert masking.masked(f"before {url(password)} after") == f"before postgresql://me:***@{ADDRESS} after"


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://me:p@ss@host/db",
        "postgresql://me:p/ss@host/db",
        "postgresql://me:pass%@host/db",
        "postgresql://me@host:pass/db",
        "postgresql://host/db?password=pass&unheard_of=1",
        "postgresql://me:pass\0@host/db",
        "host=h password=pass",
        "mysql://me:pass@host/db",
        "pass",
        "",
    ],
)
def test_an_ambiguous_url_is_refused_without_quoting_it(given: str) -> None:
    with pytest.raises(InvalidDatabaseUrl, match="postgresql://") as caught:
        DatabaseUrl.parse(given)
    assert "pass" not in str(caught.value).replace("user:password@host", "")
    with pytest.raises(StorageError):
        Writer(given)
    assert postgres.without_password(given) == "***"


def test_options_are_shown_and_the_secrets_among_them_masked() -> None:
    options = "sslmode=verify-full&sslrootcert=/etc/ca.pem&sslpassword=hunter2&password=hunter3"
    masked = DatabaseUrl.parse(f"postgresql://a,b:5433/db?{options}").masked
    assert masked == "postgresql://:***@a,b:5433/db?sslmode=verify-full&sslpassword=***&sslrootcert=/etc/ca.pem"


@pytest.mark.parametrize("password", HOSTILE)
def test_no_command_shows_a_password(
    password: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("EARLYBELL_HOME", str(tmp_path))
    monkeypatch.setenv("EARLYBELL_DATABASE_URL", url(password))
    monkeypatch.setenv("EARLYBELL_KAFKA_PASSWORD", password)
    monkeypatch.setenv("EARLYBELL_KAFKA_USERNAME", "me")
    monkeypatch.setenv("EARLYBELL_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    for command in ("settings", "status", "status --json", "db current", "up"):
        execute(command.split())
        printed = "".join(capsys.readouterr())
        assert printed
        for form in {password, quote(password, safe=""), json.dumps(password)[1:-1]}:
            assert len(form) < 2 or form not in printed.replace("user:password@host", ""), command
    monkeypatch.setenv("EARLYBELL_DATABASE_URL", f"postgresql://me:{password}@nowhere/")
    execute(["db", "current"])
    execute(["settings"])
    printed = "".join(capsys.readouterr())
    assert len(password) < 2 or password not in printed


@pytest.mark.parametrize("password", HOSTILE)
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_log_shows_a_password(password: str, form: str) -> None:
    script = f"""
import logging, structlog
from earlybell.streams import logs
from earlybell.streams.settings import load_settings
password = {password!r}
settings = load_settings()
logs.configure("debug", {form!r})
log = structlog.get_logger("test")
log.info("connected", url=settings.database, dsn=f"host=h password={{password}}", inner=[{{"pgpassword": password}}])
log.info("quoted", argv=["x", f"--password={{password}}"], error=ValueError(f"cannot log in with {{password}}"))
logging.getLogger("kafka").warning("login of %s with %r failed", "me", password)
try:
    raise RuntimeError(f"{{settings.database}} or {{password}}")
except RuntimeError:
    log.exception("failed")
print("done")
"""
    environment = {
        "EARLYBELL_DATABASE_URL": url(password),
        "EARLYBELL_KAFKA_PASSWORD": password,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.stderr.count("***") >= 4
    for shape in {password, quote(password, safe=""), json.dumps(password)[1:-1], repr(password)[1:-1]}:
        assert len(shape) < masking.SHORTEST_REMEMBERED or shape not in done.stderr


def test_an_invalid_setting_does_not_quote_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EARLYBELL_PARTITIONS", "postgresql://me:hunter2@host/")
    assert execute(["settings"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_a_kafka_address_is_shown_and_a_password_in_it_is_not() -> None:
    assert kafka.without_password("broker-1:9092,broker-2:9092") == "broker-1:9092,broker-2:9092"
    assert kafka.without_password("SASL://me:hunter2@broker:9092") == "SASL://me:***@broker:9092"


def test_masking_leaves_the_rest() -> None:
    settings = Settings(kafka_password=SecretStr("word"))
    for secret in settings.secrets():
        masking.remember(secret)
    assert masking.masked("the word, but not a keyword") == "the ***, but not a keyword"
    assert masking.masked("tokens=5 rows=3 http://host:80/path") == "tokens=5 rows=3 http://host:80/path"
    assert logs.masked({"n": 1, "x": None, "y": [1.5, True]}) == {"n": 1, "x": None, "y": [1.5, True]}
