"""A fast way for plain text to its word pieces, where a compiler is at hand: the same ids as the tokenizer's.

It knows BERT's tokenizers and the compiled `word_pieces.c`; nothing of models or lengths.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from ctypes import Structure, byref, c_char_p, c_int32, c_int64, c_void_p

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

#: What the compiled code does; a tokenizer that does anything else is left alone.
NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
PRE_TOKENIZER = {"type": "BertPreTokenizer"}
MODEL = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


class _Pieces(Structure):
    _fields_ = [("starts", c_void_p), ("inside", c_void_p), ("text", c_char_p), ("at", c_void_p),
                ("length", c_void_p), ("slots", c_int64), ("unknown", c_int32)]  # fmt: skip


class WordPieces:
    """The vocabulary as the compiled code looks it up."""

    def __init__(self, tokenizer: Tokenizer, kernels: ctypes.CDLL) -> None:
        if not fits(tokenizer):
            raise ValueError("not a lower-casing BERT word-piece tokenizer")
        self._kernels = kernels
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        room = 1 << (4 * len(vocabulary)).bit_length()
        tables = {name: np.full(room, -1, np.int32) for name in ("starts", "inside")}
        size = max(vocabulary.values()) + 1
        at, length = np.zeros(size, np.int32), np.full(size, -1, np.int32)
        text = bytearray()
        for piece, index in vocabulary.items():
            inside = piece.startswith("##") and piece != "##"
            raw = (piece[2:] if inside else piece).encode()
            at[index], length[index] = len(text), len(raw)
            text += raw
            table = tables["inside" if inside else "starts"]
            slot = _slot(raw, room)
            while table[slot] >= 0:
                slot = (slot + 1) % room
            table[slot] = index
        self._arrays = (*tables.values(), at, length)
        unknown = json.loads(tokenizer.to_str())["model"]["unk_token"]
        self._pieces = _Pieces(*(table.ctypes.data for table in tables.values()), bytes(text), at.ctypes.data,
                               length.ctypes.data, room, vocabulary[unknown])  # fmt: skip

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32] | None]:
        """The ids of each text, without special tokens; None for a text that the tokenizer proper must read."""
        raw = [text.encode("utf-8", "replace") for text in texts]
        ends = np.cumsum([len(one) for one in raw], dtype=np.int64)
        ids = np.empty(int(ends[-1]) if len(ends) else 0, np.int32)
        counts = np.empty(len(raw), np.int32)
        self._kernels.earlybell_word_pieces(
            byref(self._pieces),
            c_char_p(b"".join(raw)),
            c_void_p(ends.ctypes.data),
            c_int64(len(raw)),
            c_void_p(ids.ctypes.data),
            c_void_p(counts.ctypes.data),
        )
        found: list[NDArray[np.int32] | None] = []
        start = 0
        for count in counts.tolist():
            found.append(None if count < 0 else ids[start : start + count])
            start += max(count, 0)
        return found


def fits(tokenizer: Tokenizer) -> bool:
    """Whether the compiled code does what this tokenizer does."""
    described = json.loads(tokenizer.to_str())
    normalizer, before, model = (described.get(name) or {} for name in ("normalizer", "pre_tokenizer", "model"))
    return (
        NORMALIZER.items() <= normalizer.items()
        and normalizer.get("strip_accents") in (None, True)
        and before == PRE_TOKENIZER
        and MODEL.items() <= model.items()
        and model["unk_token"] in model["vocab"]
        and all(added["content"].startswith("[") for added in described["added_tokens"])
    )


def _slot(raw: bytes, room: int) -> int:
    """FNV-1a, folded, as in the C."""
    value = 14695981039346656037
    for byte in raw:
        value = ((value ^ byte) * 1099511628211) % 2**64
    return (value ^ value >> 32) & (room - 1)
