"""The compiled word pieces return the tokenizer's own ids, or leave the text to the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from earlybell.inference.kernels import library
from earlybell.inference.kernels.wordpiece import WordPieces, is_supported
from earlybell.inference.model.checkpoint import SHIPPED

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels here")

NEWS = "Acme’s Q3 profit soars 12.5% – “record” outlook… $ACME up; U.S. shares fall-off, CEO's exit @ 9am #earnings"
ODD = [*"abcdeST 19.%", *map(chr, range(0x2008, 0x202A)), "é", "中"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    shipped = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    shipped.no_padding()
    shipped.no_truncation()
    return shipped


@pytest.fixture(scope="module")
def quick(tokenizer: Tokenizer) -> WordPieces:
    kernels = library.load()
    assert kernels is not None
    return WordPieces(tokenizer, kernels)


def assert_agreement(quick: WordPieces, tokenizer: Tokenizer, texts: list[str]) -> int:
    """Assert that the compiled word pieces agree with the tokenizer; return how many texts they encoded."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    encoded = quick.encode(texts)
    for ids, encoding in zip(encoded, encodings, strict=True):
        assert ids is None or ids.tolist() == encoding.ids
    return sum(ids is not None for ids in encoded)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=126), max_size=80), max_size=6))
def test_ascii_is_encoded_as_by_the_tokenizer(quick: WordPieces, tokenizer: Tokenizer, texts: list[str]) -> None:
    assert_agreement(quick, tokenizer, texts)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(alphabet=ODD, max_size=40), max_size=6))
def test_odd_characters_are_refused_or_encoded_as_by_the_tokenizer(
    quick: WordPieces, tokenizer: Tokenizer, texts: list[str]
) -> None:
    assert_agreement(quick, tokenizer, texts)


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyzE", min_size=1, max_size=110), max_size=8))
def test_words_of_any_length_are_split_as_by_the_tokenizer(
    quick: WordPieces, tokenizer: Tokenizer, words: list[str]
) -> None:
    assert assert_agreement(quick, tokenizer, [" ".join(words)]) == 1


def test_news_is_encoded_by_the_compiled_word_pieces(quick: WordPieces, tokenizer: Tokenizer) -> None:
    assert assert_agreement(quick, tokenizer, [NEWS, "", " ", "a" * 100, "b" * 101, NEWS.upper() * 30]) == 6


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


def test_a_mixed_window_is_read_in_order(tmp_path: Path) -> None:
    from earlybell.inference.engine import open_engine

    texts = [NEWS, "café au lait", "", "Shares fall", "[CLS] injected", "x " * 2_000]
    engine = open_engine("cpu")
    one_by_one = [engine.read([text])[0].tolist() for text in texts]
    assert [ids.tolist() for ids in engine.read(texts)] == one_by_one
    assert len(one_by_one[-1]) == engine.description.max_tokens


def test_other_tokenizers_are_not_supported() -> None:
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
    kernels = library.load()
    assert kernels is not None
    with pytest.raises(ValueError, match="word-piece"):
        WordPieces(other, kernels)
