"""Estimates the tokens of a text, which limit a window. Counting them would mean tokenizing in the event loop."""

from __future__ import annotations

#: Characters of an English headline per WordPiece token, roughly.
CHARACTERS_PER_TOKEN = 4
#: [CLS] and [SEP].
SPECIAL_TOKENS = 2


def estimate_tokens(text: str) -> int:
    """Estimate how many tokens the model will read of a text, special tokens included."""
    return SPECIAL_TOKENS + len(text) // CHARACTERS_PER_TOKEN
