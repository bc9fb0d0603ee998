"""Sentences about companies, markets and the economy whose label is known because of how they were made.

Half of the groups come from sentences written by hand (`written`), the rest from templates. Each family returns a
group: a minimal pair, or a single sentence. Which of two opposite wordings stands first is drawn, so that order tells
nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from earlybell.inference.training.data import Example
from earlybell.inference.training.judgement import clauses, figures, markets, social, written
from earlybell.inference.training.judgement.figures import Group
from earlybell.inference.training.judgement.lexicon import lines, options
from earlybell.inference.training.judgement.words import dress, fill

SOURCE = "constructed"
_LABELS = {1: "positive", 0: "neutral", -1: "negative"}


def event_pairs(rng: random.Random) -> Group:
    """Return two opposite events in nearly the same words."""
    return list(zip((1, -1), fill(rng, options(rng.choice(lines("events_pairs")))), strict=True))


def bad_events(rng: random.Random) -> Group:
    """Return an event that is bad without a word of mood."""
    return [(-1, fill(rng, [rng.choice(lines("events_bad"))])[0])]


def good_events(rng: random.Random) -> Group:
    """Return an event that is good without a word of mood."""
    return [(1, fill(rng, [rng.choice(lines("events_good"))])[0])]


def plain(rng: random.Random) -> Group:
    """Return an announcement that says nothing good or bad."""
    return [(0, fill(rng, [rng.choice(lines("events_neutral"))])[0])]


#: Families with their share of the groups. Most groups are pairs, so that plain announcements need a larger one.
FAMILIES: dict[Callable[[random.Random], Group], float] = {
    clauses.moves: 16,
    clauses.against_expectation: 7,
    clauses.beats: 3,
    clauses.facts_denied: 7,
    clauses.abilities: 6,
    clauses.scopes: 5,
    clauses.concessions: 6,
    figures.against_expected: 6,
    figures.against_before: 5,
    figures.change_against_expected: 3,
    figures.loss_against: 2,
    figures.swing: 1.5,
    figures.bare: 2,
    markets.turns: 5,
    markets.rivals: 5,
    markets.inputs: 5,
    markets.analysts: 6,
    markets.economy: 5,
    markets.reasons: 2,
    event_pairs: 14,
    bad_events: 9,
    good_events: 9,
    plain: 32,
    social.cashtags: 4,
    social.emoji: 4,
    social.sarcasm: 5,
    written.headlines: 155,
    written.posts: 20,
}
_SOCIAL = (social.cashtags, social.emoji, social.sarcasm, written.posts)


def groups(count: int, seed: int) -> list[list[Example]]:
    """Return groups with ``count`` sentences together (or one group's more); the same seed gives the same groups."""
    rng = random.Random(f"judgement:{seed}")
    families, shares = list(FAMILIES), list(FAMILIES.values())
    seen: set[str] = set()
    made: list[list[Example]] = []
    total = 0
    while total < count:
        family = rng.choices(families, shares)[0]
        group = family(rng)
        rng.shuffle(group)
        texts = [text for _, text in group]
        if family in _SOCIAL:
            if rng.random() < 0.2:
                texts = [text.lower() for text in texts]
        else:
            texts = dress(rng, texts)
        if any(text in seen for text in texts):
            continue
        seen.update(texts)
        made.append([Example(text, _LABELS[sign], SOURCE) for (sign, _), text in zip(group, texts, strict=True)])
        total += len(group)
    return made


def sentences(count: int, seed: int) -> list[Example]:
    """Return ``count`` sentences, those of a group side by side."""
    return [example for group in groups(count, seed) for example in group][:count]
