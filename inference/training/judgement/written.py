"""Headlines written by hand, each with its label, in ``lexicon/written``: the variety that no template has.

A line of a file is one entry: a sign and a wording, or, with " | " between them, a minimal pair. ``[capability]``
starts a part, as in every lexicon::

    [events_insolvency_fraud]
    - Coupon on {n}'s {y} notes goes unpaid
    + {n} survives confidence vote | - {n} loses confidence vote
    0 {n} to publish first-half figures on {d}
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache

from earlybell.inference.training.data import LABELS, Example, is_held_out
from earlybell.inference.training.judgement.figures import Group
from earlybell.inference.training.judgement.lexicon import files, options, sections
from earlybell.inference.training.judgement.words import fill

DIRECTORY = "written"
#: Parts in the style of social media, which take no wire's tag and no title case.
POSTS = frozenset({"cashtags_social", "emoji", "sarcasm"})
_SIGNS = {"+": 1, "0": 0, "-": -1}
#: Shares of what is drawn: a pair, or one entry of a sign. Writers find more bad news than good, the model must not.
_KINDS = {"pair": 0.62, "0": 0.17, "+": 0.09, "-": 0.12}

Entry = tuple[tuple[int, str], ...]  # one or two (sign, wording)


def parse(line: str) -> Entry:
    """Return the signs and wordings of a line.

    Raises
    ------
    ValueError
        If a wording has no sign, there are more than two, or a pair's labels are the same.
    """
    entry = []
    for part in options(line):
        sign, _, wording = part.partition(" ")
        if sign not in _SIGNS or not wording.strip():
            raise ValueError(f"{line!r}: begin each wording with '+ ', '- ' or '0 '")
        entry.append((_SIGNS[sign], wording.strip()))
    if len(entry) > 2 or len({sign for sign, _ in entry}) != len(entry):
        raise ValueError(f"{line!r}: give one wording, or two with different labels")
    return tuple(entry)


@cache
def entries(*, posts: bool, kept_aside: bool = False) -> dict[str, tuple[Entry, ...]]:
    """Return the entries of all files by what they are: ``pair``, or the sign of a single wording.

    With ``kept_aside`` return the twentieth part, by a hash of the line, that is never drawn: it shows how much of what
    is taught carries over to wordings of the same writers.
    """
    found: dict[str, list[Entry]] = defaultdict(list)
    for file in files(DIRECTORY):
        for name, lines in sections(file).items():
            if (name in POSTS) == posts:
                for line in lines:
                    if is_held_out(line, "written", 0.05) == kept_aside:
                        entry = parse(line)
                        found["pair" if len(entry) == 2 else line[0]].append(entry)
    return {kind: tuple(of_kind) for kind, of_kind in found.items()}


def headlines(rng: random.Random) -> Group:
    """Return a headline, or a minimal pair, as an editor would write it."""
    return _draw(rng, posts=False)


def posts(rng: random.Random) -> Group:
    """Return a post, or a minimal pair, as investors write on social media."""
    return _draw(rng, posts=True)


def never_drawn(seed: int = 1) -> list[Example]:
    """Return the entries kept aside as labelled texts."""
    rng = random.Random(f"written:{seed}")
    return [
        Example(text, LABELS[sign + 1], DIRECTORY)
        for posts in (False, True)
        for of_kind in entries(posts=posts, kept_aside=True).values()
        for entry in of_kind
        for sign, text in _filled(rng, entry)
    ]


def _draw(rng: random.Random, *, posts: bool) -> Group:
    by_kind = entries(posts=posts)
    kinds = [kind for kind in _KINDS if kind in by_kind]
    kind = rng.choices(kinds, [_KINDS[kind] for kind in kinds])[0]
    return _filled(rng, rng.choice(by_kind[kind]))


def _filled(rng: random.Random, entry: Entry) -> Group:
    texts = fill(rng, [wording for _, wording in entry])
    return [(sign, text[0].upper() + text[1:]) for (sign, _), text in zip(entry, texts, strict=True)]
