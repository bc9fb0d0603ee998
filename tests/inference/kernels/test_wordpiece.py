"""The compiled word pieces read every text as Python and the tokenizers library do, or leave it to them."""

from __future__ import annotations

import json
import lzma
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from earlybell.inference.kernels import build, library
from earlybell.inference.kernels.wordpiece import WordPieces, is_supported
from earlybell.inference.model.checkpoint import SHIPPED
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.token_ids import TokenIds
from earlybell.inference.training.data import DataError, data_directory
from tests.inference.kernels import characters

pytestmark = pytest.mark.skipif(library.load() is None, reason="no kernels here")

TOKENIZER = SHIPPED / "tokenizer.json"
NEWS = "Acme’s Q3 profit soars 12.5% – “record” outlook… $ACME up; U.S. shares fall-off, CEO's exit @ 9am #earnings"
ODD = [
    *"abhtpsw.:/[]#_S19 %\t\n\0\x07\x1c\x7f\x85\xad\u200b\u200d\u2028\u3000\ufe0f\ufffd", "http://", "https://",
    "HTTP\u017f://", "://", "www.", "WWW.", "[SEP]", "[CLS", "[UNK][PAD]", "\xe9", "e\u0301", "\xdf", "\u0130",
    "\u1fee", "\ufb01", "\u212b", "\u042f", "\u0387", "\u037e", "\u4e2d", "\u3001", "\uf900", "\U0002f800",
    "\ud55c", "\u1100", "\u304b\u3099", "\u0308", "\u0bca", "\u302e", "\U00016ff0", "\u1b44", "\U0001f600",
    "\U0001f469\u200d\U0001f467", "\U0001f1ec", "\U000f0000", "\ud83d", "\udc00",
]  # fmt: skip
TEXTS = st.text() | st.lists(st.sampled_from(ODD)).map("".join)
LONG_TEXTS = st.lists(st.sampled_from([*ODD, "profit ", "word", " "]), max_size=1_500).map("".join)


def readers(max_tokens: int) -> tuple[Reader, Reader]:
    """Return the reader under test, and the reference."""
    return Reader.open(TOKENIZER, max_tokens), Reader.open(TOKENIZER, max_tokens, compiled=False)


READERS = {max_tokens: readers(max_tokens) for max_tokens in (2, 3, 24, 512)}


def word_pieces(reader: Reader) -> WordPieces:
    assert reader._word_pieces is not None
    return reader._word_pieces


def assert_agreement(texts: Sequence[str], max_tokens: int = 512) -> int:
    """Assert that both readers return the same ids; return how many texts were left to the tokenizers library."""
    compiled, reference = READERS[max_tokens]
    actual, expected = compiled.read(texts), reference.read(texts)
    assert actual.offsets.tolist() == expected.offsets.tolist()
    assert actual.ids.tolist() == expected.ids.tolist()
    assert actual.ids.dtype == np.int32
    return len(word_pieces(compiled).read(texts)[1])


@settings(max_examples=600)
@given(texts=st.lists(TEXTS, max_size=8))
def test_any_text_is_read_as_by_the_tokenizers_library(texts: list[str]) -> None:
    assert_agreement(texts)


@settings(max_examples=300)
@given(texts=st.lists(LONG_TEXTS, max_size=4), max_tokens=st.sampled_from([2, 3, 24]))
@example(
    texts=["x" * 48 + "www.a.b " + "y" * 48, "\xe9" * 40 + "[SEP]" * 30, "http://" * 20 + " a b" * 30], max_tokens=2
)
def test_long_texts_are_cut_as_by_python(texts: list[str], max_tokens: int) -> None:
    assert_agreement(texts, max_tokens)


@settings(max_examples=200)
@given(words=st.lists(st.text("abcdefghijklmnopqrstuvwxyzEÉ中", min_size=1, max_size=110), max_size=8))
def test_words_of_any_length_are_split_as_by_the_tokenizers_library(words: list[str]) -> None:
    assert assert_agreement([" ".join(words)]) == 0


@pytest.mark.parametrize("seed", range(4))
def test_very_long_texts_are_read_as_by_the_tokenizers_library(seed: int) -> None:
    generator = random.Random(seed)
    readable = [part for part in ODD if len(word_pieces(READERS[512][0]).read([f"a {part} a"])[1]) == 0]
    fragments = [*readable, NEWS, " profit ", "x" * 70]
    texts = ["".join(generator.choices(fragments, k=size)) for size in (50_000, 9_000, 300)]
    assert max(map(len, texts)) > 200_000
    for max_tokens in READERS:
        assert_agreement(texts, max_tokens)


def test_every_character_is_read_as_by_the_tokenizers_library() -> None:
    """In the middle of a word, whose pieces show what became of it, and with every piece that it may become."""
    found = characters.actions()
    becomes = {chr(code) for code in found.values() if isinstance(code, int)} | set(map(chr, range(128)))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(becomes), *sorted("##" + character for character in becomes)]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    compiled, reference = (Reader(tokenizer.to_str(), 4_096, compiled=compiled) for compiled in (True, False))
    _, left = word_pieces(compiled).read(characters.CHARACTERS)
    refused = {characters.CHARACTERS[row] for row in left}
    assert refused == {character for character, action in found.items() if action == "REFUSED"}
    assert len(refused) < 13_000, "Hangul, ideographs for compatibility, and few others"
    words = [f"a{character}b" for character in characters.CHARACTERS if character not in refused]
    texts = [" ".join(words[start : start + 500]) for start in range(0, len(words), 500)]
    assert len(word_pieces(compiled).read(texts)[1]) == 0
    for actual, expected in zip(compiled.read(texts), reference.read(texts), strict=True):
        assert actual.tolist() == expected.tolist()


def test_the_table_of_characters_is_that_of_the_tokenizers_library() -> None:
    assert (build.HERE / "characters.h").read_text(encoding="utf-8") == characters.header()


def test_news_is_read_without_the_tokenizers_library() -> None:
    texts = [NEWS, NEWS.upper() * 30, "", " ", "a" * 100, "b" * 101, "a lone \ud800", "nul\0", "see www.a.b"]
    assert assert_agreement([*texts, "Caf\xe9[SEP]", "\u682a\u4fa1 \U0001f600"]) == 0


def test_the_tokenizers_library_is_not_even_loaded_for_news() -> None:
    program = f"""
import sys
from pathlib import Path
from earlybell.inference.model.tokenizer import Reader
reader = Reader.open(Path({str(TOKENIZER)!r}), 512)
for text in ({NEWS!r}, "\ud55c"):
    reader.read([text])
    print("tokenizers" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["False", "True"]


def test_real_texts_are_read_as_by_the_tokenizers_library() -> None:
    """Hardly any is left to the library: that would be slow."""
    try:
        data = data_directory()
    except DataError:
        pytest.skip("no real texts here (EARLYBELL_DATA)")
    with lzma.open(data / "unlabelled_headlines.txt.xz", "rt", encoding="utf-8") as lines:
        headlines = [line.rstrip("\n") for line in islice(lines, 0, None, 20)]
    with lzma.open(data / "long" / "imdb_test.jsonl.xz", "rt", encoding="utf-8") as lines:
        reviews = [json.loads(line)["text"] for line in islice(lines, 500)]
    tweets = (data / "sentiment" / "tfns_validation.jsonl").read_text(encoding="utf-8").splitlines()
    left = sum(assert_agreement(texts) for texts in (headlines, reviews, [json.loads(line)["text"] for line in tweets]))
    assert left <= 0.0005 * len(headlines)


def test_what_only_the_library_knows_is_left_to_it() -> None:
    texts = ["한국", NEWS, "éwww.acme.example", "of two vowels: \u0bca", ""]
    assert assert_agreement(texts) == 3
    _, left = word_pieces(READERS[512][0]).read(texts)
    assert left.tolist() == [0, 2, 3]


def test_no_texts_have_no_ids() -> None:
    assert assert_agreement([]) == 0
    assert len(READERS[512][0].read([])) == 0


def test_other_tokenizers_are_not_supported() -> None:
    pieces = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "a": 4}
    other = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    other.decoder = decoders.WordPiece()
    other.normalizer = normalizers.BertNormalizer(lowercase=False)
    other.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert not is_supported(json.loads(other.to_str()))
    cased = Reader(other.to_str(), 24)
    assert cased._word_pieces is None
    assert [ids.tolist() for ids in cased.read(["a A", ""])] == [[1, 4, 0, 2], [1, 2]]
    other.normalizer = normalizers.BertNormalizer(lowercase=True)
    assert is_supported(json.loads(other.to_str()))
    other.add_tokens(["zebra"])
    assert not is_supported(json.loads(other.to_str()))


SANITIZED = ("-O1", "-g", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_nothing_is_out_of_bounds_or_undefined(tmp_path: Path, compiler: str) -> None:
    """`read_texts.c` gives each array the space that it must have and no more; bytes need not be UTF-8."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    sources = [str(Path(__file__).with_name("read_texts.c")), str(build.HERE / "wordpiece.c")]
    program = tmp_path / "read_texts"
    subprocess.run(
        [compiler, *SANITIZED, f"-I{build.HERE}", *sources, "-o", str(program)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    generator = random.Random(3)
    fragments = [part.encode("utf-8", "replace") for part in [*ODD, NEWS, " ", "x" * 70, "profit"]]
    fragments += [b"\x80", b"\xc3", b"\xe2\x80", b"\xf0\x9f\x98", b"\xff", b"\xc0\x80", b"\xed\xa0\x80"]
    # Text is told from text by its first byte.
    texts = [b" " + b"".join(generator.choices(fragments, k=generator.randint(0, 60))) for _ in range(3_000)]
    described = json.loads(TOKENIZER.read_text(encoding="utf-8"))
    for max_tokens in (2, 24, 512):
        packed = _packed(described, max_tokens, texts)
        ran = subprocess.run([str(program)], input=packed, check=True, capture_output=True, timeout=300)
        values = np.frombuffer(ran.stdout, np.int32)
        refused, lengths, ids = values[: len(texts)], values[len(texts) : 2 * len(texts)], values[2 * len(texts) :]
        assert 0 < refused.sum() < len(texts)
        # What is UTF-8 is read as through the interpreter.
        rows = TokenIds(ids, np.append(0, np.cumsum(lengths, dtype=np.int64)))
        valid = [row for row, text in enumerate(texts) if not refused[row] and _is_utf8(text)]
        expected = READERS[max_tokens][1].read([texts[row].decode() for row in valid])
        assert [rows[row].tolist() for row in valid] == [ids.tolist() for ids in expected]


def _packed(described: dict[str, Any], max_tokens: int, texts: Sequence[bytes]) -> bytes:
    pieces = [piece.encode() for piece, _ in sorted(described["model"]["vocab"].items(), key=lambda item: item[1])]
    special = [(token["id"], token["content"].encode()) for token in described["added_tokens"]]
    head, characters_read = int((max_tokens - 2) * 0.75), max_tokens * 24
    parts = [struct.pack("<7q", len(pieces), len(special), len(texts), 1, max_tokens, head, characters_read)]
    parts += [struct.pack("<q", len(text)) + text for text in pieces]
    parts += [struct.pack("<qq", index, len(text)) + text for index, text in special]
    starts = [sum((byte & 0xC0) != 0x80 for byte in text) for text in texts]
    parts += [struct.pack("<qq", count, len(text)) + text for count, text in zip(starts, texts, strict=True)]
    return b"".join(parts)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
