from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.model.tokenizer import Reader, normalise


@pytest.fixture(scope="module")
def reader(tokenizer_file: Path) -> Reader:
    return Reader.open(tokenizer_file, 24)


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("Acme rises https://t.co/abc", "Acme rises"),
        ("see www.acme.example/a?b=c now", "see now"),
        ("HTTP://X.Y/z  Acme\n\tfalls ", "Acme falls"),
        ("https://only.a/link", ""),
        ("no link: http is a protocol", "no link: http is a protocol"),
        ("a lone \ud800 surrogate", "a lone ? surrogate"),
    ],
)
def test_urls_are_removed_and_white_space_collapses(raw: str, read: str) -> None:
    assert normalise(raw) == read


#: Includes easy mistakes: a letter whose capital is S, and separators that only some functions count as white space.
_PARTS = [
    "http",
    "HTTPS",
    "http\u017f",
    "://",
    "www",
    "WwW",
    ".",
    "a",
    " ",
    "\n",
    "\x1c",
    "\x85",
    "\xa0",
    "\u200b",
    "\u3000",
]


@given(text=st.lists(st.sampled_from(_PARTS), max_size=12).map("".join) | st.text(max_size=60))
def test_every_url_and_all_white_space_is_found(text: str) -> None:
    without = re.sub(r"https?://\S+|\bwww\.\S+", " ", text, flags=re.IGNORECASE).encode("utf-8", "replace").decode()
    assert normalise(text) == re.sub(r"\s+", " ", without).strip()


def test_short_texts_are_read_whole(reader: Reader) -> None:
    (ids,) = reader.read(["acme profit soars"])
    assert [reader.tokenizer.id_to_token(int(token)) for token in ids] == ["[CLS]", "acme", "profit", "soars", "[SEP]"]


def test_long_texts_are_read_from_both_ends(reader: Reader) -> None:
    (ids,) = reader.read(["acme " * 16 + "profit " * 50 + "falls " * 6])
    assert len(ids) == 24
    words = [reader.tokenizer.id_to_token(int(token)) for token in ids[1:-1]]
    assert words[:16] == ["acme"] * 16
    assert words[16:] == ["fall", "##s"] * 3


def test_a_megabyte_is_cut_before_it_is_tokenised(reader: Reader) -> None:
    (ids,) = reader.read(["acme " + "profit " * 200_000 + "loss"])
    assert len(ids) == 24
    assert reader.tokenizer.id_to_token(int(ids[1])) == "acme"
    assert reader.tokenizer.id_to_token(int(ids[-2])) == "loss"


@given(texts=st.lists(st.text(max_size=200), max_size=5))
def test_any_text_is_framed_and_within_the_limit(reader: Reader, texts: list[str]) -> None:
    read = reader.read(texts)
    assert len(read) == len(texts)
    for ids in read:
        assert 2 <= len(ids) <= 24
        assert (ids[0], ids[-1]) == (reader.cls_id, reader.sep_id)


def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer"):
        Reader.open(file, 24)
