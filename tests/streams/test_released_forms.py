"""Messages are retained for ever: every released form of a record stays readable.

``released/RECORD-N.json`` is a message with every field of the record's N-th form.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from earlybell.streams.records import NewsItem, SentimentSignal, decode_news, decode_signal, encode

RELEASED = Path(__file__).parent / "released"
SIGNALS = sorted(RELEASED.glob("SentimentSignal-*.json"))
NEWS = sorted(RELEASED.glob("NewsItem-*.json"))


@pytest.mark.parametrize("path", SIGNALS, ids=lambda path: path.name)
def test_every_released_signal_is_readable(path: Path) -> None:
    released = json.loads(path.read_text())
    signal = decode_signal(path.read_bytes())
    again = json.loads(encode(signal))
    assert {name: again[name] for name in released} == released
    assert all(again[name] is None for name in again.keys() - released.keys())


@pytest.mark.parametrize("path", NEWS, ids=lambda path: path.name)
def test_every_released_news_item_is_readable(path: Path) -> None:
    released = json.loads(path.read_text())
    again = json.loads(encode(decode_news(path.read_bytes())))
    released["published_at"] = again["published_at"]  # in UTC now
    assert {name: again[name] for name in released} == released


@pytest.mark.parametrize(("record", "paths"), [(NewsItem, NEWS), (SentimentSignal, SIGNALS)])
def test_the_present_form_is_kept_and_only_the_first_has_required_fields(
    record: type[msgspec.Struct], paths: list[Path]
) -> None:
    fields = msgspec.structs.fields(record)
    first, last = (json.loads(path.read_text()).keys() for path in (paths[0], paths[-1]))
    assert last == {field.name for field in fields}, f"keep a message of the new form: {record.__name__}-N.json"
    required = {field.name for field in fields if field.required}
    assert required <= first, "a field that is added later has a default"
