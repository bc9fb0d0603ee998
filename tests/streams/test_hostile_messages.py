"""Whatever a message contains, decoding it returns news that can be stored and sent, or the reason why it cannot."""

from __future__ import annotations

from datetime import UTC, timedelta

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from earlybell.streams import dead_letters
from earlybell.streams.message_size import size_of
from earlybell.streams.records import BadNews, decode_news, decode_signal, encode
from tests.streams.hostile import CORPUS, GOOD, messages
from tests.streams.test_scoring import fetched


def check(value: bytes) -> None:
    try:
        item = decode_news(value)
    except BadNews as fault:
        reason = str(fault)
        assert reason
        letter = dead_letters.letter(fetched(1, value), stage="decode", kind="BadNews", reason=reason)
        assert size_of(letter) <= dead_letters.MAX_LETTER_BYTES
        assert letter.value in {value, None}
        return
    assert decode_news(encode(item)) == item, "a message that is sent back must mean the same"
    texts = [item.id, item.headline, item.body, item.source, item.language, item.url, *(item.symbols or [])]
    for text in filter(None, texts):
        assert "\0" not in text
        text.encode()  # no lone surrogates
    assert item.headline.strip()
    assert item.published_at.tzinfo == UTC
    assert item.published_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("value", CORPUS.values(), ids=CORPUS)
def test_the_corpus(value: bytes) -> None:
    check(value)


@settings(max_examples=500)
@given(messages())
@example(b'{"id": "h", "headline": "x", "published_at": "0001-01-01T00:00:00+00:01"}')
def test_messages_that_are_almost_news(value: bytes) -> None:
    check(value)


@given(st.binary(max_size=200))
def test_any_bytes(value: bytes) -> None:
    check(value)


PREFIXES = {
    "a byte order mark": b"\xef\xbb\xbf",
    "a registry's header": b"\0\0\0\0\x07",
    "a registry's header with a brace in it": b"\0\0\0\0{",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_what_clients_write_before_their_json_is_skipped(prefix: bytes) -> None:
    news = msgspec.json.encode(GOOD)
    assert decode_news(prefix + news) == decode_news(news)


@pytest.mark.parametrize("value", [b"\0\0\0\0\x07\x06abc", b"\0\0\0\0\x07", b"\0", b"\xef\xbb\xbf", b"\0\0\0\0\x07{}"])
def test_a_prefix_alone_is_no_news(value: bytes) -> None:
    with pytest.raises(BadNews, match=r"not JSON|violates the contract"):
        decode_news(value)


@pytest.mark.parametrize("value", CORPUS.values(), ids=CORPUS)
def test_signals_that_are_none_raise_what_the_storing_role_expects(value: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError, RecursionError)):
        decode_signal(value)
