"""From a raw text to the token ids that the model reads: the same in training and in serving.

It knows the tokenizer and the limit on length; nothing of models, batches or files other than the tokenizer's.
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

_URL = re.compile(r"https?://\S+|\bwww\.\S+", re.IGNORECASE)
#: Of a text that is too long, so much of the room goes to its beginning and the rest to its end: news leads with
#: what matters, and closes with outlook and guidance.
HEAD_SHARE = 0.75
#: A word piece covers at least one character; what can never be read is cut before the tokenizer sees it.
_CHARACTERS_PER_TOKEN = 24


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns texts into ids: URLs out, white space collapsed, ``[CLS] ... [SEP]``, at most ``max_tokens``.

    The rule for long texts: where a text has more than ``max_tokens`` tokens, the model reads the first three
    quarters of the room from its beginning and the last quarter from its end (head + tail), never a silent cut.
    """

    tokenizer: Tokenizer
    max_tokens: int
    cls_id: int
    sep_id: int
    pad_id: int
    quick: WordPieces | None = None  # for plain texts: the same ids, sooner

    @classmethod
    def open(cls, tokenizer_file: Path, max_tokens: int) -> Reader:
        """Read a ``tokenizer.json``; raises ``ValueError`` if it is none or lacks BERT's special tokens."""
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the Rust library raises bare Exceptions
            raise ValueError(f"{tokenizer_file} is not a tokenizer: {error}") from error
        return cls.of(tokenizer, max_tokens)

    @classmethod
    def of(cls, tokenizer: Tokenizer, max_tokens: int) -> Reader:
        """Wrap a tokenizer that is already in memory."""
        special: list[int] = []
        for token in ("[CLS]", "[SEP]", "[PAD]"):
            found = tokenizer.token_to_id(token)
            if found is None:
                raise ValueError(f"the tokenizer lacks {token}")
            special.append(found)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        cls_id, sep_id, pad_id = special
        return cls(tokenizer, max_tokens, cls_id, sep_id, pad_id)

    def read(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of each text, special tokens included; an empty text is ``[CLS] [SEP]``."""
        trimmed = [self._trim(one) for one in texts]
        found = [None] * len(trimmed) if self.quick is None else self.quick.encode(trimmed)
        rest = [text for text, ids in zip(trimmed, found, strict=True) if ids is None]
        encoded = iter(self.tokenizer.encode_batch_fast(rest, add_special_tokens=False))
        return [self._frame(np.array(next(encoded).ids, np.int32) if ids is None else ids) for ids in found]

    def _trim(self, text: str) -> str:
        text = normalise(text)
        room = self.max_tokens * _CHARACTERS_PER_TOKEN
        if len(text) <= 2 * room:
            return text
        return f"{text[:room]} {text[-room:]}"

    def _frame(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        room = self.max_tokens - 2
        if len(ids) > room:
            head = int(room * HEAD_SHARE)
            ids = np.concatenate([ids[:head], ids[head - room :]])
        framed = np.empty(len(ids) + 2, np.int32)
        framed[0], framed[1:-1], framed[-1] = self.cls_id, ids, self.sep_id
        return framed


def normalise(text: str) -> str:
    """The text without URLs (they name a page, not a mood), with white space collapsed."""
    if "://" in text or "www." in text.lower():  # the search itself takes longer than all the rest
        text = _URL.sub(" ", text)
    # A lone surrogate cannot be passed to the tokenizer; the stream rejects such news before it comes here.
    return " ".join(text.encode("utf-8", "replace").decode().split())
