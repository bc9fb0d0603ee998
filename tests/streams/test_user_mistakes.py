"""Mistakes that people make, and the line that each of them prints: what is wrong, and what to do."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from earlybell.streams.cli import execute
from tests.streams import no_servers

NO_BROKER = (
    "127.0.0.1:1: no broker answers; is Kafka running? `earlybell up` starts one, "
    "EARLYBELL_KAFKA_BOOTSTRAP names another"
)
NO_WORKER = "no worker could be started on cpu: "

#: What is typed (with variables in front, as in a shell) and the line that it prints after "earlybell: ".
MISTAKES = {
    # Servers that are not there.
    "earlybell run": NO_BROKER,
    "earlybell run --role scoring": NO_BROKER,
    "earlybell run --role storing": NO_BROKER,
    "earlybell watch": NO_BROKER,
    "earlybell dead": NO_BROKER,
    "earlybell redrive": NO_BROKER,
    "earlybell replay good.csv": NO_BROKER,
    "earlybell db upgrade": (
        'postgresql://me@127.0.0.1:1/none: connection to server at "127.0.0.1", port 1 failed: Connection refused; '
        "is Postgres running? `earlybell up` starts one, EARLYBELL_DATABASE_URL names another"
    ),
    "EARLYBELL_DATABASE_URL= earlybell db url": (
        "no Postgres runs here: `earlybell up` starts one, EARLYBELL_DATABASE_URL names another"
    ),
    "earlybell up": (
        "127.0.0.1:1 (EARLYBELL_KAFKA_BOOTSTRAP) does not answer: start it, correct the variable, or unset it"
    ),
    # Settings.
    "EARLYBELL_PARTITIONS=many earlybell settings": (
        "EARLYBELL_PARTITIONS='many' is invalid: it must be a whole number"
    ),
    "EARLYBELL_DIAL=2 earlybell settings": "EARLYBELL_DIAL='2' is invalid: it must be at most 1",
    "EARLYBELL_EXACT=perhaps earlybell settings": "EARLYBELL_EXACT='perhaps' is invalid: it must be true or false",
    "EARLYBELL_LOG_LEVEL=loud earlybell settings": (
        "EARLYBELL_LOG_LEVEL='loud' is invalid: it must be debug, info, warning or error"
    ),
    "EARLYBELL_KAFKA_BOOTSTRAP=http://kafka:9092 earlybell watch": (
        "EARLYBELL_KAFKA_BOOTSTRAP='http://kafka:9092' is invalid: it must be host:port[,host:port], without a "
        "scheme or a path"
    ),
    "EARLYBELL_KAFKA_CA_FILE=absent.pem earlybell run": (
        "EARLYBELL_KAFKA_CA_FILE='absent.pem' is invalid: there is no such file"
    ),
    "EARLYBELL_KAFKA_SECURITY_PROTOCOL=SASL_SSL earlybell run": (
        "the settings are invalid: EARLYBELL_KAFKA_SECURITY_PROTOCOL is SASL_SSL, which needs EARLYBELL_KAFKA_USERNAME "
        "and EARLYBELL_KAFKA_PASSWORD"
    ),
    "EARLYBELL_DATABASE_URL=mysql://host/x earlybell db upgrade": (
        "mysql databases are not supported: use a URL such as postgresql://host/database"
    ),
    # The model.
    "EARLYBELL_CHECKPOINT=absent earlybell run": (
        "EARLYBELL_CHECKPOINT=absent is no checkpoint: it has no manifest.json"
    ),
    "EARLYBELL_CHECKPOINT=absent earlybell score texts.txt": (
        f"{NO_WORKER}no checkpoint at absent: name its directory, or none to use the shipped checkpoint"
    ),
    "EARLYBELL_DEVICES=tpu earlybell score texts.txt": (
        "devices cannot be 'tpu': say auto, cpu, or a list such as cuda:0,cuda:1"
    ),
    "EARLYBELL_DEVICES=cpu EARLYBELL_PRECISION=int4 earlybell score texts.txt": (
        f"{NO_WORKER}no precision 'int4': choose auto, int8 or float32 or bfloat16"
    ),
    # Files.
    "earlybell score absent.txt": "absent.txt: no such file or directory",
    "earlybell score 'Acme profit soars'": (
        "Acme profit soars: no such file; for a text, type: echo 'Acme profit soars' | earlybell score -"
    ),
    "earlybell replay .": ".: is a directory",
    "earlybell replay odd.csv": (
        "no column for headline: the file has kicker, when; name it with --map headline=COLUMN, or give its "
        "number, from 1, if the file has no header"
    ),
    "earlybell replay odd.csv --map headline=lead": "no column 'lead' for headline: the file has kicker, when",
    "earlybell replay good.csv --map mood=x": (
        "--map mood=x: use field=column, where field is one of id, headline, published_at, body, source, symbols, "
        "language, url, revision"
    ),
    "earlybell replay good.csv --timezone Mars": (
        "--timezone Mars: unknown; use a name such as UTC or America/New_York"
    ),
    "earlybell replay texts.txt": ("texts.txt: cannot tell the format from the name; use --format jsonl, csv or tsv"),
    "earlybell replay good.csv --raw --map id=x": (
        "--raw sends lines unchanged: drop --map and --timezone, and any --format but jsonl"
    ),
    # What is typed.
    "earlybell scroe texts.txt": "No such command 'scroe'. Did you mean 'score'? (see `earlybell --help`)",
    "earlybell score": "Missing argument 'file' (see `earlybell score --help`)",
    "earlybell score texts.txt --json --csv": (
        "Invalid value: choose one of --json and --csv (see `earlybell score --help`)"
    ),
    "earlybell replay good.csv --speed quick": "--speed quick: use a multiple of real time such as 60, or max",
    "earlybell replay good.csv --limit 0": (
        "Invalid value for '--limit': it must be at least 1 (see `earlybell replay --help`)"
    ),
    "earlybell run --role scorer": (
        "Invalid value for '--role': 'scorer' is not one of 'scoring', 'storing' (see `earlybell run --help`)"
    ),
}


@pytest.fixture(autouse=True)
def _in_a_directory_with_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_servers.enter(monkeypatch, tmp_path)
    # Another test's role may have taken the usual ports, which a role says before it looks for the broker.
    monkeypatch.setenv("EARLYBELL_SCORING_PORT", "0")
    monkeypatch.setenv("EARLYBELL_STORING_PORT", "0")


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_prints_its_line(
    typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(typed)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words[0] == "earlybell"
    code = execute(words[1:])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    # The roles' log of what they were about to do is no error.
    lines = [line for line in captured.err.splitlines() if not ('"level": "info"' in line and line.startswith("{"))]
    assert lines == [f"earlybell: {MISTAKES[typed]}"]
    assert "hunter2" not in captured.err
