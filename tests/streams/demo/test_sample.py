"""The sample feed matches `streams.demo.sample`: counts, reasons, corrections, duplicates and variety."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from earlybell.streams.commands.feeds import Message, raw_messages
from earlybell.streams.commands.rows import open_file
from earlybell.streams.demo import sample
from earlybell.streams.records import BadNews, NewsItem, decode_news

MESSAGES: list[Message] = list(raw_messages(open_file(str(sample.FEED))))
GOOD: dict[int, NewsItem] = {}
REASONS: dict[int, str] = {}
for message in MESSAGES:
    try:
        GOOD[message.line] = decode_news(message.value)
    except BadNews as bad:
        REASONS[message.line] = str(bad)
#: The messages that get a signal, by line; DISTINCT is the same without the duplicates.
ENGLISH = {line: item for line, item in GOOD.items() if item.language is None or item.language.startswith("en")}
DISTINCT = list({(item.id, item.revision): item for item in ENGLISH.values()}.values())


def intended(line: int) -> str:
    value = MESSAGES[line - 1].value
    assert value is not None
    return str(json.loads(value)["intended"])


def test_counts() -> None:
    assert len(MESSAGES) == sample.MESSAGES == len(GOOD) + len(REASONS)
    assert len({item.id for item in ENGLISH.values()}) == sample.STORIES >= 300
    assert len({(item.id, item.revision) for item in ENGLISH.values()}) == sample.SIGNALS
    assert len({(item.id, item.revision) for item in GOOD.values()}) == sample.NEWS
    assert sum(item.revision == 2 for item in ENGLISH.values()) == sample.CORRECTIONS
    assert len(ENGLISH) == sample.SIGNALS + sample.DUPLICATES


@pytest.mark.parametrize("line", sample.BROKEN)
def test_each_broken_message_has_its_reason(line: int) -> None:
    if line in GOOD:
        assert line not in ENGLISH
        assert repr(GOOD[line].language) in sample.BROKEN[line]
    else:
        assert sample.BROKEN[line] in REASONS[line]


def test_nothing_else_is_broken() -> None:
    assert set(REASONS) | (set(GOOD) - set(ENGLISH)) == set(sample.BROKEN)
    assert len(GOOD) - len(ENGLISH) == sample.FOREIGN


def test_repeated_ids_are_corrections_or_exact_duplicates() -> None:
    values = Counter(message.value for message in MESSAGES if message.line in ENGLISH)
    assert sorted(values.values(), reverse=True)[: sample.DUPLICATES + 1] == [2] * sample.DUPLICATES + [1]
    first: dict[str, tuple[int, NewsItem]] = {}
    for line, item in ENGLISH.items():
        if item.revision == 1:
            first.setdefault(item.id, (line, item))
        else:
            before, original = first[item.id]
            assert before < line
            assert original.headline != item.headline
            assert original.published_at < item.published_at
            assert original.symbols == item.symbols


def test_some_corrections_change_the_label() -> None:
    labels = {(item.id, item.revision): intended(line) for line, item in ENGLISH.items()}
    changed = [
        news_id for (news_id, revision), label in labels.items() if revision == 2 and labels[news_id, 1] != label
    ]
    assert len(changed) >= 3


def test_news_is_in_order_of_time_and_within_one_day() -> None:
    times = [item.published_at for item in DISTINCT]
    assert times == sorted(times)
    assert len({time.date() for time in times}) == 1


def test_variety() -> None:
    items = DISTINCT
    labels = Counter(intended(line) for line in ENGLISH)
    assert min(labels["positive"], labels["negative"], labels["neutral"]) > 60
    assert len({symbol for item in items for symbol in item.symbols or []}) >= 25
    assert sum(len(item.symbols or []) > 1 for item in items) >= 8
    assert sum(not item.symbols for item in items) >= 12, "macro news is about no company"
    assert len({item.source for item in items}) == 5
    lengths = [len(item.body.split()) for item in items if item.body]
    assert len(lengths) >= 25
    assert all(300 <= words <= 800 for words in lengths)
    assert all("\n\n" in item.body for item in items if item.body)
    # Few headlines begin alike: they are not one template filled in 300 times.
    openings = Counter(" ".join(item.headline.split()[1:4]) for item in items)
    assert max(openings.values()) <= 5
    assert len({item.headline for item in items}) >= sample.SIGNALS - 2


def test_a_nul_in_a_headline_is_removed() -> None:
    [line] = [message.line for message in MESSAGES if message.line in GOOD and b"\\u0000" in (message.value or b"")]
    assert GOOD[line].headline.startswith("Kitewell to paint")
