"""A fast path from plain text to word pieces, in C: the same ids as the tokenizers library gives.

It knows BERT's tokenizers and `wordpiece.c`; nothing of models or length limits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ctypes import byref

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from earlybell.inference.kernels.library import Kernels
from earlybell.inference.kernels.structs import Vocabulary, address

#: The tokenizer that the C code implements; any other is left to the tokenizers library.
NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
PRE_TOKENIZER = {"type": "BertPreTokenizer"}
MODEL = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


class WordPieces:
    """A tokenizer's vocabulary in the form that the C code looks it up in."""

    def __init__(self, tokenizer: Tokenizer, kernels: Kernels) -> None:
        if not is_supported(tokenizer):
            raise ValueError("not a lower-casing BERT word-piece tokenizer")
        self._kernels = kernels
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        slots = 1 << (4 * len(vocabulary)).bit_length()
        starts, continuations = np.full(slots, -1, np.int32), np.full(slots, -1, np.int32)
        size = max(vocabulary.values()) + 1
        offset, length = np.zeros(size, np.int32), np.full(size, -1, np.int32)
        text = bytearray()
        for piece, index in vocabulary.items():
            continues = piece.startswith("##") and piece != "##"
            raw = (piece[2:] if continues else piece).encode()
            offset[index], length[index] = len(text), len(raw)
            text += raw
            table = continuations if continues else starts
            slot = _hash(raw) & (slots - 1)
            while table[slot] >= 0:
                slot = (slot + 1) % slots
            table[slot] = index
        self._arrays = (starts, continuations, offset, length)  # kept alive for the pointers below
        unknown = json.loads(tokenizer.to_str())["model"]["unk_token"]
        self._vocabulary = Vocabulary(
            starts=address(starts),
            continuations=address(continuations),
            text=bytes(text),
            offset=address(offset),
            length=address(length),
            slots=slots,
            unknown=vocabulary[unknown],
        )

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32] | None]:
        """Return the ids of each text, without special tokens; None for a text that is not plain."""
        encoded = [text.encode("utf-8", "replace") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        ids = np.empty(int(ends[-1]) if len(ends) else 0, np.int32)
        counts = np.empty(len(encoded), np.int32)
        self._kernels.wordpiece(
            byref(self._vocabulary), b"".join(encoded), address(ends), len(encoded), address(ids), address(counts)
        )
        pieces: list[NDArray[np.int32] | None] = []
        start = 0
        for count in counts.tolist():
            pieces.append(None if count < 0 else ids[start : start + count])
            start += max(count, 0)
        return pieces


def is_supported(tokenizer: Tokenizer) -> bool:
    """Whether the C code does what this tokenizer does."""
    described = json.loads(tokenizer.to_str())
    normalizer, pre_tokenizer, model = (described.get(part) or {} for part in ("normalizer", "pre_tokenizer", "model"))
    return (
        NORMALIZER.items() <= normalizer.items()
        and normalizer.get("strip_accents") in (None, True)
        and pre_tokenizer == PRE_TOKENIZER
        and MODEL.items() <= model.items()
        and model["unk_token"] in model["vocab"]
        and all(added["content"].startswith("[") for added in described["added_tokens"])
    )


def _hash(raw: bytes) -> int:
    """FNV-1a, folded, as in the C code."""
    value = 14695981039346656037
    for byte in raw:
        value = ((value ^ byte) * 1099511628211) % 2**64
    return value ^ value >> 32
