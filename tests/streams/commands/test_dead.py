"""`dead` on a real broker: counts by reason, the latest letters, and one in full; nothing is sent or committed."""

from __future__ import annotations

import json
import re
from contextlib import closing

import pytest

from earlybell.streams.brokers import open_producer
from earlybell.streams.cli import execute
from earlybell.streams.dead_letters import letter
from earlybell.streams.records import BadNews, decode_news
from earlybell.streams.settings import Settings
from earlybell.streams.topics import create_topics
from tests.own_topics import as_environment, own_topics
from tests.streams.test_schemas import Message

VALUES: list[bytes | None] = [
    b"",
    b"  \n",
    None,
    b'{"headline": "Zephyr \\u001b[2J wins"}',
    b"GET / HTTP/1.1 \x1b[2J",
    b'{"headline": "Borealis"}',
]


@pytest.fixture
def letters(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = own_topics(kafka_bootstrap, partitions=1)
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    create_topics(settings)
    with closing(open_producer(settings)) as producer:
        for offset, content in enumerate(VALUES):
            with pytest.raises(BadNews) as fault:
                decode_news(content)
            origin = Message(topic=settings.news_topic, offset=offset, value=content)
            sent = letter(origin, stage="decode", kind="BadNews", reason=str(fault.value))
            producer.send(settings.dead_topic, key=sent.key, value=sent.value, headers=list(sent.headers))
        producer.flush()
    return settings


def test_letters_are_counted_listed_and_shown(letters: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["dead"]) == 0
    out = capsys.readouterr().out
    assert f"6 dead letters on {letters.dead_topic}" in out
    assert "      2  empty: the message has a value without content" in out
    assert "      2  violates the contract: Object missing required field `id`" in out
    assert out.count("(empty)") == 2
    assert "(no value: a tombstone)" in out
    assert "\x1b" not in out
    assert execute(["dead", "--last", "1"]) == 0
    listed = capsys.readouterr().out.split("The latest 1:")[1]
    # By the first column: a time such as 10:40:49 contains other letters' names.
    [row] = [line for line in listed.splitlines() if re.match(r"\d+:\d+ ", line)]
    assert row.startswith("0:5 ") and "Borealis" in row
    assert execute(["dead", "0:5"]) == 0
    shown = capsys.readouterr().out
    assert f"{letters.news_topic} 2:5" in shown
    assert '"headline": "Borealis"' in shown
    assert execute(["dead", "0:4"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert execute(["dead", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["letter"] for line in lines] == [f"0:{number}" for number in range(6)]
    assert [line["value"] for line in lines[:3]] == ["", "  \n", None]


@pytest.mark.parametrize("place", ["0:99", "7:0", "first"])
def test_a_letter_that_is_not_there(letters: Settings, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["dead", place]) == 2
    assert "`earlybell dead`" in capsys.readouterr().err


def test_a_dry_run_sends_nothing(letters: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, line in (
        (["redrive", "--dry-run"], "6 dead letters would be sent back\n"),
        (["redrive", "--dry-run", "--limit", "2"], "2 dead letters would be sent back\n"),
        (["redrive"], "6 dead letters sent back\n"),
        (["redrive", "--dry-run"], "0 dead letters would be sent back\n"),
    ):
        assert execute(arguments) == 0
        assert capsys.readouterr().out == line


def test_without_letters_there_is_a_sentence(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = own_topics(kafka_bootstrap)
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert execute(["dead"]) == 0
    assert capsys.readouterr().out == f"no dead letters on {settings.dead_topic}\n"
