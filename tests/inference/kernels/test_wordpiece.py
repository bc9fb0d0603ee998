"""The compiled word pieces give the ids of the tokenizer proper, or leave the text to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from earlybell.inference.kernels import build
from earlybell.inference.kernels.wordpiece import WordPieces, is_supported
from earlybell.inference.model.checkpoint import SHIPPED

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C compiler here: no compiled word pieces")

NEWS = "Acme’s Q3 profit soars 12.5% – “record” outlook… $ACME up; U.S. shares fall-off, CEO's exit @ 9am #earnings"


ODD = [*"abcdeST 19.%", *map(chr, range(0x2008, 0x202A)), "é", "中"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


@pytest.fixture(scope="module")
def quick(tokenizer: Tokenizer) -> WordPieces:
    kernels = build.library()
    assert kernels is not None
    return WordPieces(tokenizer, kernels)


def agree(quick: WordPieces, tokenizer: Tokenizer, texts: list[str]) -> int:
    """How many were read the quick way; all of those as the tokenizer reads them."""
    proper = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    found = quick.encode(texts)
    for ids, expected in zip(found, proper, strict=True):
        assert ids is None or ids.tolist() == expected.ids
    return sum(ids is not None for ids in found)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=126), max_size=80), max_size=6))
def test_ascii_is_read_alike(quick: WordPieces, tokenizer: Tokenizer, texts: list[str]) -> None:
    agree(quick, tokenizer, texts)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(alphabet=ODD, max_size=40), max_size=6))
def test_what_is_not_plain_is_refused_or_read_alike(quick: WordPieces, tokenizer: Tokenizer, texts: list[str]) -> None:
    agree(quick, tokenizer, texts)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyzE", min_size=1, max_size=110), max_size=8))
def test_words_of_any_length_are_split_alike(quick: WordPieces, tokenizer: Tokenizer, words: list[str]) -> None:
    assert agree(quick, tokenizer, [" ".join(words)]) == 1


def test_news_is_read_the_quick_way(quick: WordPieces, tokenizer: Tokenizer) -> None:
    assert agree(quick, tokenizer, [NEWS, "", " ", "a" * 100, "b" * 101, NEWS.upper() * 30]) == 6


def test_accents_control_characters_and_special_tokens_are_left_to_the_tokenizer(quick: WordPieces) -> None:
    odd = [
        "café",
        "tab\there",
        "[SEP] in a text",
        "株価",
        "nul\x00",
        "\ud800".encode("utf-8", "replace").decode() + "é",
    ]
    assert quick.encode(odd) == [None] * len(odd)
    assert quick.encode([]) == []


def test_the_reader_reads_a_mixed_window_in_order(tmp_path: Path) -> None:
    from earlybell.inference.engine import open_engine

    texts = [NEWS, "café au lait", "", "Shares fall", "[CLS] injected", "x " * 2_000]
    engine = open_engine("cpu")
    slow = [engine.read([text])[0].tolist() for text in texts]
    assert [row.tolist() for row in engine.read(texts)] == slow
    assert len(slow[-1]) == engine.description.max_tokens


def test_another_tokenizer_is_left_alone() -> None:
    pieces = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}
    other = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    other.decoder = decoders.WordPiece()
    other.normalizer = normalizers.BertNormalizer(lowercase=False)
    other.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert not is_supported(other)
    other.normalizer = normalizers.BertNormalizer(lowercase=True)
    assert is_supported(other)
    other.add_tokens(["zebra"])
    assert not is_supported(other)
    kernels = build.library()
    assert kernels is not None
    with pytest.raises(ValueError, match="word-piece"):
        WordPieces(other, kernels)
