"""Texts to token ids in one C call that holds no interpreter lock: the same ids as through the tokenizers library.

It knows the description of BERT's tokenizers (``tokenizer.json``) and `wordpiece.c`; nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ctypes import byref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.kernels import structs
from earlybell.inference.kernels.library import Kernels
from earlybell.inference.kernels.structs import address
from earlybell.inference.token_ids import TokenIds, offsets_of

#: The tokenizer that the C code implements; any other is left to the tokenizers library.
NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
PRE_TOKENIZER = {"type": "BertPreTokenizer"}
MODEL = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
#: Of a token that is found before anything is normalised.
ADDED_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_ADDED_TEXT = re.compile(r"\[\w+\]", re.ASCII)


class WordPieces:
    """A tokenizer in C, and how much of a text it reads. Any number of threads may use one.

    Parameters
    ----------
    described
        The content of a ``tokenizer.json`` that `is_supported`.
    ends
        The ids that stand at either end of every text.
    max_tokens, head_tokens
        Ids of a text, those at the ends included, and how many of them are from its start if it has more.
    max_characters
        Characters that are read at either end of a text; what lies between is skipped.
    """

    def __init__(
        self,
        described: Mapping[str, Any],
        kernels: Kernels,
        *,
        ends: tuple[int, int],
        max_tokens: int,
        head_tokens: int,
        max_characters: int,
    ) -> None:
        self._kernels, self._max_tokens, self._max_characters = kernels, max_tokens, max_characters
        vocabulary = described["model"]["vocab"]
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for piece, index in vocabulary.items():
            pieces[index] = piece.encode()
        added = described["added_tokens"]
        special = [token["content"].encode() for token in added]
        slots = 1 << (2 * len(pieces)).bit_length()
        arrays: dict[str, NDArray[Any]] = {
            "offset": _offsets(pieces),
            "index": np.empty(slots, np.uint64),
            "special_id": np.array([token["id"] for token in added], np.int32),
            "special_offset": _offsets(special),
        }
        self._arrays = arrays  # kept alive for the pointers
        self._tokenizer = structs.Tokenizer(
            text=b"".join(pieces),
            special=b"".join(special),
            **{name: address(array) for name, array in arrays.items()},
            pieces=len(pieces),
            slots=slots,
            specials=len(special),
            unknown=vocabulary[described["model"]["unk_token"]],
            first=ends[0],
            last=ends[1],
            max_tokens=max_tokens,
            head_tokens=head_tokens,
            max_characters=max_characters,
        )
        kernels.index(byref(self._tokenizer))

    def read(self, texts: Sequence[str]) -> tuple[TokenIds, NDArray[np.int64]]:
        """Return the ids of each text, and which texts are left to the tokenizers library: their ids are missing."""
        count = len(texts)
        joined = "".join(texts).encode("utf-8", "replace")
        characters = np.fromiter(map(len, texts), np.int64, count)
        space = int(np.minimum(characters + 2, self._max_tokens).sum()) + 2 * self._max_characters
        ids, offsets = np.empty(space, np.int32), np.empty(count + 1, np.int64)
        refused = np.empty(count, np.bool_)
        self._kernels.read(
            byref(self._tokenizer), joined, len(joined), address(characters), count, address(ids), address(offsets),
            address(refused),
        )  # fmt: skip
        return TokenIds(ids[: offsets[-1]], offsets), np.flatnonzero(refused)


def is_supported(described: Mapping[str, Any]) -> bool:
    """Whether the C code does what the tokenizer of this ``tokenizer.json`` does."""
    normalizer, pre_tokenizer, model = (described.get(part) or {} for part in ("normalizer", "pre_tokenizer", "model"))
    return (
        NORMALIZER.items() <= normalizer.items()
        and normalizer.get("strip_accents") in (None, True)
        and pre_tokenizer == PRE_TOKENIZER
        and MODEL.items() <= model.items()
        and model["unk_token"] in model["vocab"]
        and 0 <= min(model["vocab"].values()) <= max(model["vocab"].values()) < 4 * len(model["vocab"])
        and all(
            ADDED_TOKEN.items() <= token.items() and _ADDED_TEXT.fullmatch(token["content"])
            for token in described["added_tokens"]
        )
    )


def _offsets(texts: Sequence[bytes]) -> NDArray[np.int32]:
    return offsets_of(np.fromiter(map(len, texts), np.int64, len(texts))).astype(np.int32)
