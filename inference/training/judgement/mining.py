"""Real headlines whose label a rule knows for certain: the same judgements as the grammar's, in real wording.

A headline is taken only if all rules that match it agree and nothing in it casts doubt. Precision was judged by eye on
samples (docs/experiments.md); recall does not matter.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from earlybell.inference.training.data import Example, read_unlabelled
from earlybell.inference.training.judgement.lexicon import lines

SOURCE = "mined"

#: What may turn a statement into its opposite, weaken it, or put another beside it.
_DOUBT = re.compile(
    r"\b(but|despite|although|though|even as|even if|however|yet|den(?:y|ies|ied)|not|no|won't|n't|unless|without|"
    r"may(?! \d)|might|could|would|if|whether|talks?|mulls?|considers?|rival|after|offset|shrugs?|vs|ex-|former|"
    r"bribes?|charity|hospital|school|college|university|county|city|state|team|coach|season|cup|soccer|nfl|nba|film|movie|album|"
    r"election|senate|governor|(?:shareholder|investor)s? (?:alert|investigation))\b|\?|review",
    re.IGNORECASE,
)
_KINDS = lines("mining")[::2]
_RULES = tuple(
    ({"+": 1, "0": 0, "-": -1}[kind[0]], kind[2:], re.compile(pattern.strip(), re.IGNORECASE))
    for kind, pattern in zip(_KINDS, lines("mining")[1::2], strict=True)
)
#: "Q3 EPS $0.50 vs I/B/E/S view $0.45": two figures, and what they measure.
_UNIT = r" ?(?:bln|mln|million|billion|cents|pct|percent|crore)?"
_FIGURES = re.compile(
    r"(?P<what>EPS|earnings per share|revenue|sales|profit|net|loss|NII|FFO|EBITDA|EBIT|income)\b"
    rf"[^\d]{{0,25}}?(?P<a>\d[\d,]*\.?\d*)(?P<ua>{_UNIT})"
    rf"[^\d]{{0,12}}?\b(?:vs|versus)\.? (?P<between>[^\d]{{0,30}}?)(?P<b>\d[\d,]*\.?\d*)(?P<ub>{_UNIT})",
    re.IGNORECASE,
)


def certain_label(headline: str) -> tuple[int, str] | None:
    """Return the sign (+1, 0, -1) and the kind of a headline that a rule is certain of; None of any other."""
    figures = _compared(headline)
    if figures is not None:
        return figures, "figures"
    matches = [(sign, name) for sign, name, pattern in _RULES if pattern.search(headline)]
    if len({sign for sign, _ in matches}) != 1 or _DOUBT.search(headline):
        return None
    return matches[0]


def mine(unlabelled: Path, count: int, seed: int, exclude: Iterable[Example] = ()) -> list[Example]:
    """Sample ``count`` headlines with a certain label: equally many of each sign, and no kind above its share."""
    kinds: dict[tuple[int, str], list[str]] = defaultdict(list)
    for headline in read_unlabelled(unlabelled, 10**9, seed, exclude):
        label = certain_label(headline) if len(headline) < 200 else None
        if label is not None:
            kinds[label].append(headline)
    labels = {1: "positive", 0: "neutral", -1: "negative"}
    chosen = [
        Example(text, labels[sign], SOURCE)
        for sign in labels
        for text in _level([texts for (of, _), texts in kinds.items() if of == sign], count // 3)
    ]
    random.Random(seed).shuffle(chosen)
    return chosen


def _level(kinds: Sequence[Sequence[str]], count: int) -> list[str]:
    """Take one of each kind in turn until there are ``count``."""
    taken: list[str] = []
    for turn in range(max(map(len, kinds), default=0)):
        for texts in kinds:
            if len(taken) == count:
                return taken
            if turn < len(texts):
                taken.append(texts[turn])
    return taken


def _compared(headline: str) -> int | None:
    """Return the sign of a single comparison of two figures of one unit; None if there is none or another beside it."""
    found = list(_FIGURES.finditer(headline))
    if len(found) != 1 or re.search(r"\b(?:loss|profit)\b", found[0]["between"], re.IGNORECASE):
        return None
    match = found[0]
    if match["ua"].strip().lower() != match["ub"].strip().lower():
        return None
    now, then = (float(match[name].replace(",", "")) for name in "ab")
    if now == then:
        return 0 if re.search(r"view|est|consensus|expect|forecast", match["between"], re.IGNORECASE) else None
    sign = 1 if now > then else -1
    if re.search(r"\bloss\b", headline[: match.end()], re.IGNORECASE):
        sign = -sign if match["what"].lower() == "loss" else 0
    others = {of for of, name, pattern in _RULES if of and name != "figures" and pattern.search(headline)}
    return sign if sign and others <= {sign} else None
