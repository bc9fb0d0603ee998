"""The published contracts match the code: they are up to date, and what the code writes validates against them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from earlybell.signal_fields import LABELS
from earlybell.storage import tables
from earlybell.streams import dead_letters, records
from earlybell.streams.records import NewsItem, SentimentSignal
from earlybell.streams.schemas import documents

DIRECTORY = Path(__file__).parents[2] / "deploy" / "schemas"


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((DIRECTORY / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def contract() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DIRECTORY / "asyncapi.yaml").read_text())
    return document


def signal() -> SentimentSignal:
    moment = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    return SentimentSignal(
        signal_id=records.signal_id("story-1", 1, records.text_hash("Acme"), "abc", "dial=0.50"),
        news_id="story-1",
        revision=1,
        symbols=["NWND"],
        source=None,
        text_hash=records.text_hash("Acme"),
        label="positive",
        score=0.75,
        probabilities={"negative": 0.05, "neutral": 0.15, "positive": 0.8},
        confidence=0.8,
        published_at=moment,
        ingested_at=moment,
        scored_at=moment,
        queue_ms=1.5,
        inference_ms=20.0,
        model="elbert-small",
        model_revision="abc",
        policy="dial=0.50",
        dial=0.5,
        precision="float32",
        exit_depth=3,
        predicted_depth=2.5,
        depth_limit=6,
        tokens=12,
        tokens_kept=7,
        topic="news.raw",
        partition=0,
        offset=41,
    )


def test_every_published_file_is_up_to_date() -> None:
    published = {path.name: path.read_text() for path in DIRECTORY.iterdir() if path.suffix in {".json", ".yaml"}}
    assert published == documents(), "run `make schemas`"


@pytest.mark.parametrize("record", [NewsItem, SentimentSignal])
def test_every_field_has_a_description(record: type[NewsItem] | type[SentimentSignal]) -> None:
    properties = json.loads((DIRECTORY / f"{record.__name__}.json").read_text())["$defs"][record.__name__]["properties"]
    assert [name for name, field in properties.items() if not field.get("description", "").endswith(".")] == []


def test_schema_and_table_say_the_same_of_a_signal() -> None:
    properties = records.json_schemas()["SentimentSignal"]["$defs"]["SentimentSignal"]["properties"]
    comments = {column.name: column.comment for column in tables.signals.columns if column.name != "available_at"}
    assert comments == {name: field["description"] for name, field in properties.items()}
    assert tuple(properties["label"]["enum"]) == LABELS


moments = st.datetimes(
    min_value=datetime(1971, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))]),
)


@given(
    st.builds(
        NewsItem,
        id=st.text(min_size=1, max_size=256),
        headline=st.text(min_size=1, max_size=4096).filter(str.strip),
        published_at=moments,
        body=st.none() | st.text(),
        symbols=st.none() | st.lists(st.text(min_size=1, max_size=64), max_size=5),
        revision=st.integers(1, 2**31 - 1),
    )
)
def test_every_encoded_item_validates(item: NewsItem) -> None:
    validator("NewsItem").validate(json.loads(records.encode(item)))


def test_a_signal_validates_with_and_without_its_origin() -> None:
    full = json.loads(records.encode(signal()))
    validator("SentimentSignal").validate(full)
    offline = dict.fromkeys(("topic", "partition", "offset", "published_at", "ingested_at", "queue_ms"))
    validator("SentimentSignal").validate({**full, **offline})


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"id": "x" * 257},
        {"headline": ""},
        {"headline": "x" * 4097},
        {"symbols": "NWND"},
        {"revision": 0},
        {"revision": "2"},
        {"published_at": None},
    ],
)
def test_what_the_contract_refuses_the_code_refuses(wrong: dict[str, Any]) -> None:
    good = {"id": "story-1", "headline": "Northwind raises its forecast", "published_at": "2026-03-02T09:30:00-05:00"}
    validator("NewsItem").validate(good)
    records.decode_news(json.dumps(good).encode())
    with pytest.raises(jsonschema.ValidationError):
        validator("NewsItem").validate({**good, **wrong})
    with pytest.raises(records.BadNews):
        records.decode_news(json.dumps({**good, **wrong}).encode())


def references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def test_every_reference_in_the_asyncapi_document_resolves() -> None:
    document = contract()
    targets = list(references(document))
    assert len(targets) == 11
    for target in targets:
        file, _, pointer = target.partition("#/")
        node: Any = json.loads((DIRECTORY / file).read_text()) if file else document
        for part in pointer.split("/"):
            node = node[part]
        assert node


@dataclass
class Message:
    topic: str = "news.raw"
    partition: int = 2
    offset: int = 41
    key: bytes | None = b"story-1"
    value: bytes | None = b"{"
    headers: tuple[tuple[str, bytes], ...] = ()


def test_the_headers_of_a_dead_letter_are_those_of_the_contract() -> None:
    letter = dead_letters.letter(Message(), stage="decode", kind="BadNews", reason="not JSON")
    written = {name: value.decode() for name, value in letter.headers}
    schema = contract()["components"]["messages"]["DeadLetter"]["headers"]
    jsonschema.Draft202012Validator(schema).validate(written)
    assert set(written) == set(schema["required"])
    assert set(schema["properties"]) - set(written) == {dead_letters.VALUE_OMITTED}
    assert {name.split(".")[0] for name in written} == {"__connect", "__streams"}
