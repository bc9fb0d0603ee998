"""Turn raw text into the token ids that the model reads, identically in training and serving.

It knows the tokenizer and the length limit; nothing of models, batches or files other than the tokenizer's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from earlybell.inference.kernels.wordpiece import WordPieces
from earlybell.inference.token_ids import TokenIds

_URL = re.compile(r"https?://\S+|\bwww\.\S+", re.IGNORECASE)
#: Share of the tokens that the start of a long text gets; its end gets the rest. News puts the facts first, and outlook
#: and guidance last.
HEAD_SHARE = 0.75
#: Characters per token to keep at either end of a long text: the tokenizer need not see what lies between.
_MAX_CHARACTERS_PER_TOKEN = 24


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns texts into ids: no URLs, white space collapsed, ``[CLS] ... [SEP]``, at most ``max_tokens``.

    Of a longer text the model reads the start and the end, three quarters of the limit from the start (`HEAD_SHARE`).
    """

    tokenizer: Tokenizer
    max_tokens: int
    cls_id: int
    sep_id: int
    pad_id: int
    quick: WordPieces | None = None  # a faster path for plain texts, with the same ids

    @classmethod
    def open(cls, tokenizer_file: Path, max_tokens: int) -> Reader:
        """Read a ``tokenizer.json``; raise ``ValueError`` if it is not one or lacks BERT's special tokens."""
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the Rust library raises bare exceptions
            raise ValueError(f"{tokenizer_file} is not a tokenizer: {error}") from error
        return cls.of(tokenizer, max_tokens)

    @classmethod
    def of(cls, tokenizer: Tokenizer, max_tokens: int) -> Reader:
        """Wrap a tokenizer that is already in memory."""
        special_ids: list[int] = []
        for token in ("[CLS]", "[SEP]", "[PAD]"):
            token_id = tokenizer.token_to_id(token)
            if token_id is None:
                raise ValueError(f"the tokenizer lacks {token}")
            special_ids.append(token_id)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        cls_id, sep_id, pad_id = special_ids
        return cls(tokenizer, max_tokens, cls_id, sep_id, pad_id)

    def read(self, texts: Sequence[str]) -> TokenIds:
        """Return the ids of each text, special tokens included; an empty text is ``[CLS] [SEP]``."""
        trimmed = [self._trim(text) for text in texts]
        rows = [None] * len(trimmed) if self.quick is None else self.quick.encode(trimmed)
        remaining = [text for text, ids in zip(trimmed, rows, strict=True) if ids is None]
        encoded = iter(self.tokenizer.encode_batch_fast(remaining, add_special_tokens=False))
        return TokenIds.pack(self._frame(np.array(next(encoded).ids, np.int32) if ids is None else ids) for ids in rows)

    def _trim(self, text: str) -> str:
        text = normalise(text)
        limit = self.max_tokens * _MAX_CHARACTERS_PER_TOKEN
        if len(text) <= 2 * limit:
            return text
        return f"{text[:limit]} {text[-limit:]}"

    def _frame(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        limit = self.max_tokens - 2
        if len(ids) > limit:
            head = int(limit * HEAD_SHARE)
            ids = np.concatenate([ids[:head], ids[head - limit :]])
        framed = np.empty(len(ids) + 2, np.int32)
        framed[0], framed[1:-1], framed[-1] = self.cls_id, ids, self.sep_id
        return framed


def normalise(text: str) -> str:
    """Remove URLs, which carry no sentiment, and collapse white space."""
    if "://" in text or "www." in text.lower():  # the regex alone takes longer than everything else
        text = _URL.sub(" ", text)
    # The tokenizer does not accept lone surrogates; the pipeline rejects such news earlier.
    return " ".join(text.encode("utf-8", "replace").decode().split())
