"""Turn raw text into the token ids that the model reads, identically in training and serving.

It knows the tokenizer and the length limit; nothing of models, batches or files other than the tokenizer's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from earlybell.inference.kernels import library, wordpiece
from earlybell.inference.kernels.wordpiece import WordPieces
from earlybell.inference.model.figures import with_verdict
from earlybell.inference.token_ids import Ids, TokenIds, offsets_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_URL = re.compile(r"https?://\S+|\bwww\.\S+", re.IGNORECASE)
#: Share of the tokens that the start of a long text gets; its end gets the rest. News puts the facts first, and outlook
#: and guidance last.
HEAD_SHARE = 0.75
#: Characters per token to keep at either end of a long text: the tokenizer need not see what lies between.
_MAX_CHARACTERS_PER_TOKEN = 24
#: Shorter words say little: many languages share them. Characters from this one on are words by themselves.
SHORTEST_WORD, FIRST_CJK = 3, "\u2e80"


class Reader:
    """Turns texts into ids: no URLs, white space collapsed, ``[CLS] ... [SEP]``, at most ``max_tokens``.

    Of a longer text the model reads the start and the end, three quarters of the limit from the start (`HEAD_SHARE`).
    The compiled word pieces do all of this in one call. They leave a text to the tokenizers library, which is loaded at
    the first such text, if it has a character whose normalisation depends on its neighbours; and every text if the
    tokenizer is not BERT's. Any number of threads may use one reader.

    Parameters
    ----------
    definition
        The content of a ``tokenizer.json``.
    max_tokens
        Special tokens included.
    compiled
        Whether to use the compiled word pieces, where there are any. It changes no id.
    figures
        Whether to read a verdict on the figures in a text with it (`figures.with_verdict`).

    Raises
    ------
    ValueError
        The definition is not a tokenizer's, or lacks BERT's special tokens.
    """

    def __init__(self, definition: str, max_tokens: int, *, compiled: bool = True, figures: bool = False) -> None:
        self._definition, self.max_tokens, self._figures = definition, max_tokens, figures
        self._head_tokens = int((max_tokens - 2) * HEAD_SHARE)
        self._max_characters = max_tokens * _MAX_CHARACTERS_PER_TOKEN
        kernels = library.load() if compiled else None
        try:
            described = json.loads(definition)
            kernels = kernels if wordpiece.is_supported(described) else None
            self.vocabulary = self.tokenizer.get_vocab() if kernels is None else _vocabulary(described)
        except Exception as error:  # the Rust library raises bare exceptions
            raise ValueError(f"not a tokenizer: {error}") from error
        missing = [token for token in ("[CLS]", "[SEP]", "[PAD]") if token not in self.vocabulary]
        if missing:
            raise ValueError(f"the tokenizer lacks {missing[0]}")
        self.cls_id, self.sep_id, self.pad_id = (self.vocabulary[token] for token in ("[CLS]", "[SEP]", "[PAD]"))
        self._word_pieces: WordPieces | None = None
        if kernels is not None:
            self._word_pieces = WordPieces(
                described,
                kernels,
                ends=(self.cls_id, self.sep_id),
                max_tokens=max_tokens,
                head_tokens=self._head_tokens,
                max_characters=self._max_characters,
            )

    @classmethod
    def open(cls, tokenizer_file: Path, max_tokens: int, *, compiled: bool = True, figures: bool = False) -> Reader:
        """Read a ``tokenizer.json``; raise ``ValueError`` if it is not one or lacks BERT's special tokens."""
        try:
            return cls(tokenizer_file.read_text(encoding="utf-8"), max_tokens, compiled=compiled, figures=figures)
        except (OSError, ValueError) as error:
            raise ValueError(f"{tokenizer_file}: {error}") from error

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the tokenizers library."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self._definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def known(self, texts: TokenIds) -> NDArray[np.float32]:
        """Return the share of each text's tokens that are whole words of the vocabulary, or emoji; special ones apart.

        Most of an English text's are, for an English model. Another language falls into pieces, or is unknown.
        """
        words = offsets_of(self._words[texts.ids].astype(np.int64))[texts.offsets]
        return (np.diff(words) / np.maximum(texts.lengths - 2, 1)).astype(np.float32)

    @cached_property
    def _words(self) -> NDArray[np.bool_]:
        """(vocabulary,) whether a token is a whole word or an emoji."""
        known = np.zeros(max(self.vocabulary.values()) + 1, np.bool_)
        for piece, index in self.vocabulary.items():
            known[index] = _is_word(piece)
        return known

    def read(self, texts: Sequence[str]) -> TokenIds:
        """Return the ids of each text, special tokens included; an empty text is ``[CLS] [SEP]``."""
        if self._figures:
            texts = [with_verdict(text) for text in texts]
        if self._word_pieces is None:
            return TokenIds.pack(self._read_each(texts))
        read, left = self._word_pieces.read(texts)
        return read.filled(left, TokenIds.pack(self._read_each([texts[row] for row in left]))) if len(left) else read

    def _read_each(self, texts: Sequence[str]) -> Iterator[Ids]:
        """Yield the ids of each text, through the tokenizers library."""
        trimmed = [self._trim(text) for text in texts]
        for encoding in self.tokenizer.encode_batch_fast(trimmed, add_special_tokens=False):
            yield self._frame(np.array(encoding.ids, np.int32))

    def _trim(self, text: str) -> str:
        text = normalise(text)
        limit = self._max_characters
        if len(text) <= 2 * limit:
            return text
        return f"{text[:limit]} {text[-limit:]}"

    def _frame(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        limit = self.max_tokens - 2
        if len(ids) > limit:
            ids = np.concatenate([ids[: self._head_tokens], ids[len(ids) - limit + self._head_tokens :]])
        framed = np.empty(len(ids) + 2, np.int32)
        framed[0], framed[1:-1], framed[-1] = self.cls_id, ids, self.sep_id
        return framed


def _vocabulary(described: Mapping[str, Any]) -> dict[str, int]:
    return {**described["model"]["vocab"], **{token["content"]: token["id"] for token in described["added_tokens"]}}


def _is_word(piece: str) -> bool:
    """Whether a piece is a word: three letters or more, a letter of a script without spaces, or an emoji."""
    if piece.isalpha():
        return len(piece) >= SHORTEST_WORD or piece >= FIRST_CJK
    return unicodedata.category(piece[:1] or " ") == "So"


def normalise(text: str) -> str:
    """Remove URLs, which carry no sentiment, and collapse white space."""
    if "://" in text or "www." in text.lower():  # the regex alone takes longer than everything else
        text = _URL.sub(" ", text)
    # The tokenizer does not accept lone surrogates; the pipeline rejects such news earlier.
    return " ".join(text.encode("utf-8", "replace").decode().split())
