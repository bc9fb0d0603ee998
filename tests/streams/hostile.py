"""Hostile messages: what a broken or malicious feed may send, and strategies that make more of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

GOOD: dict[str, Any] = {"id": "h1", "headline": "Acme beats", "published_at": "2026-01-05T09:30:00Z"}


def with_field(name: str, text: str) -> bytes:
    """A good message in which one field has this JSON text."""
    fields = {key: json.dumps(value) for key, value in GOOD.items()} | {name: text}
    return ("{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}").encode(
        "utf-8", "surrogatepass"
    )


_GOOD = json.dumps(GOOD).encode()

#: One message of each kind that has broken a reader somewhere.
CORPUS: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \t\r\n",
    "a byte-order mark": b"\xef\xbb\xbf" + _GOOD,
    "two byte-order marks": b"\xef\xbb\xbf" * 2 + _GOOD,
    "a schema registry's header": b"\0\0\0\0\x07" + _GOOD,
    "a schema registry's Avro": b"\0\0\0\0\x07\x02h\x08Acme",
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "UTF-16 without a mark": json.dumps(GOOD).encode("utf-16-le"),
    "UTF-32": json.dumps(GOOD).encode("utf-32"),
    "Latin-1": '{"id": "h", "headline": "Société", "published_at": "2026-01-05T09:30:00Z"}'.encode("latin-1"),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep lists in an unknown field": with_field("extra", "[" * 50_000 + "]" * 50_000),
    "deep objects in an unknown field": with_field("extra", '{"a":' * 50_000 + "1" + "}" * 50_000),
    "a huge integer": with_field("revision", "9" * 100_000),
    "a huge integer in an unknown field": with_field("extra", "9" * 900_000),
    "a huge exponent": with_field("extra", "1e999999999"),
    "a tiny exponent": with_field("extra", "1e-999999999"),
    "a long fraction": with_field("extra", "0." + "1" * 500_000),
    "not a number": with_field("extra", "NaN"),
    "infinity": with_field("revision", "Infinity"),
    "a negative revision": with_field("revision", "-1"),
    "a fractional revision": with_field("revision", "1.5"),
    "a revision just above the limit": with_field("revision", str(2**31)),
    "an integral float for a revision": with_field("revision", "1.0"),
    "duplicate keys, the second bad": _GOOD[:-1] + b', "headline": 7}',
    "duplicate keys, both good": _GOOD[:-1] + b', "headline": "Borealis warns"}',
    "duplicate ids": _GOOD[:-1] + b', "id": "h2"}',
    "an escaped NUL": with_field("headline", '"Acme\\u0000beats"'),
    "only NULs": with_field("headline", '"\\u0000\\u0000"'),
    "an id of NULs": with_field("id", '"\\u0000"'),
    "a raw NUL": with_field("headline", '"Acme\0beats"'),
    "raw control characters": with_field("headline", '"Acme\x01\x1f beats"'),
    "escaped control characters": with_field("headline", '"Acme\\u0001\\u001b[2J beats"'),
    "a lone surrogate": with_field("headline", '"Acme \\ud800 beats"'),
    "surrogates in the wrong order": with_field("headline", '"\\udc00\\ud800"'),
    "an encoded surrogate": with_field("headline", '"\ud800"'),
    "overlong UTF-8": _GOOD.replace(b"Acme", b"\xc0\xafAcme"),
    "beyond Unicode": _GOOD.replace(b"Acme", b"\xf4\x90\x80\x80"),
    "right-to-left override": with_field("headline", '"Acme \\u202ebeats"'),
    "combining marks": with_field("headline", '"A' + "\\u0301" * 4_000 + '"'),
    "only blanks": with_field("headline", '"\\u00a0\\u2003\\u200a"'),
    "a headline one too long": with_field("headline", '"' + "x" * 4_097 + '"'),
    "a body of almost a mebibyte": with_field("body", '"' + "x" * 1_000_000 + '"'),
    "a body of more than a mebibyte": with_field("body", '"' + "x" * 1_048_576 + '"'),
    "many symbols": with_field("symbols", json.dumps(["A"] * 1_025)),
    "many unknown fields": _GOOD[:-1] + b"".join(b', "f%d": 0' % n for n in range(50_000)) + b"}",
    "a long key": _GOOD[:-1] + b', "' + b"k" * 1_000_000 + b'": 0}',
    "a time without an offset": with_field("published_at", '"2026-01-05T09:30:00"'),
    "the year 0": with_field("published_at", '"0000-01-01T00:00:00Z"'),
    "before the year 1 in UTC": with_field("published_at", '"0001-01-01T00:00:00+14:00"'),
    "after the year 9999 in UTC": with_field("published_at", '"9999-12-31T23:59:59-14:00"'),
    "a leap second": with_field("published_at", '"2016-12-31T23:59:60Z"'),
    "the 30th of February": with_field("published_at", '"2026-02-30T00:00:00Z"'),
    "an epoch": with_field("published_at", "1767605400"),
    "two documents": _GOOD + b"\n" + _GOOD,
    "a comment": b"/* news */" + _GOOD,
    "a trailing comma": _GOOD[:-1] + b",}",
    "single quotes": _GOOD.replace(b'"', b"'"),
    "a list": b"[" + _GOOD + b"]",
    "null": b"null",
    "YAML's bomb": b"a: &a [lol,lol]\nb: &b [*a,*a]",
    "an XML bomb": b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
    "gzip": b"\x1f\x8b\x08" + b"\0" * 50,
    "random bytes": bytes(range(256)) * 16,
}

TEXT = st.text(max_size=20) | st.sampled_from(["\ud800", "a\udfffb", "\0", "\x1b[2J", "\u202e", "\ufeff"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)

_FIELDS = ["id", "headline", "published_at", "body", "source", "symbols", "language", "url", "revision", "extra"]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Messages that are almost news: fields of any kind, then bytes removed, repeated or replaced."""
    fields = dict(GOOD) | draw(st.dictionaries(st.sampled_from(_FIELDS), JSON, max_size=5))
    data = bytearray(json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, len(data)))
        end = min(len(data), position + draw(st.integers(0, 8)))
        data[position:end] = draw(st.binary(max_size=8) | st.just(bytes(data[position:end]) * 2))
    return bytes(data)
