"""Social media: cashtags, slang, emoji, sarcasm."""

from __future__ import annotations

import random

from earlybell.inference.training.judgement.figures import Group
from earlybell.inference.training.judgement.lexicon import pairs, section
from earlybell.inference.training.judgement.words import fill

#: Emoji by what they say; each is one piece of the vocabulary (`training.vocabulary`).
GLAD = tuple("🚀📈🔥💰🤑🎉🥳👍💎🙌🐂🟢✅💪🌕🍾⬆🏆😎😀😁🎯⭐💵🔺🤩👏💚🌙😍")
SORRY = tuple("📉💀😭🩸👎🔴🐻❌🤮💩😱😡⬇🔻🤡💸🧨🪦🛑⚠☠😢🚨😤🤦🗑💔😬🤬😩")
PLAIN = tuple("📅📊📰👀🗓📌🔔🤔📢🎙")

_GOOD = section("social", "good")
_BAD = section("social", "bad")
_PLAIN = section("social", "plain")
_ENDINGS = (
    "",
    "",
    "",
    "",
    " lol",
    "!",
    "!!",
    " tbh",
    " imo",
    " #stocks",
    " #investing",
    ".",
    " today",
    " folks",
    " lfg",
    " right now",
    " wow",
)

_SARCASM_PAIRS = pairs("social", "sarcasm_pairs")
_SARCASM = section("social", "sarcasm")


def cashtags(rng: random.Random) -> Group:
    """Return a glad and a sorry post, or a plain one."""
    if rng.random() < 0.15:
        return [(0, fill(rng, [rng.choice(_PLAIN)])[0])]
    texts = fill(rng, [rng.choice(_GOOD) + rng.choice(_ENDINGS), rng.choice(_BAD) + rng.choice(_ENDINGS)])
    return list(zip((1, -1), texts, strict=True))


_STEMS = section("social", "stems")


def emoji(rng: random.Random) -> Group:
    """Return posts whose mood an emoji alone tells, or confirms."""
    count = rng.choice((1, 1, 2, 3))
    glad, sorry = (
        "".join(rng.choice(of) if rng.random() < 0.3 else first for _ in range(count))
        for of, first in ((GLAD, rng.choice(GLAD)), (SORRY, rng.choice(SORRY)))
    )
    space = rng.choice((" ", " ", ""))
    draw = rng.random()
    if draw < 0.1:
        return [(0, fill(rng, [f"{rng.choice(PLAIN)} {rng.choice(_PLAIN)}"])[0])]
    if draw < 0.6:
        stem = rng.choice(_STEMS)
        shape = rng.choice(("{s}{space}{e}", "{s}{space}{e}", "{e} {s}", "{s} {e} {e}"))
        texts = [shape.format(s=stem, space=space, e=each) for each in (glad, sorry)]
    else:
        shape = rng.choice(("{s}{space}{e}", "{e} {s}"))
        texts = [
            shape.format(s=stem, space=space, e=each)
            for stem, each in ((rng.choice(_GOOD), glad), (rng.choice(_BAD), sorry))
        ]
    return list(zip((1, -1), fill(rng, texts), strict=True))


def sarcasm(rng: random.Random) -> Group:
    """Return a post whose praise is meant as blame, beside one that means it."""
    if rng.random() < 0.35:
        good, bad = rng.choice(_SARCASM_PAIRS)
        fact = rng.choice(("one-off charge", "write-down", "profit warning", "share sale", "delay"))
        return list(zip((1, -1), fill(rng, [good, bad], f=fact), strict=True))
    return [(-1, fill(rng, [rng.choice(_SARCASM)])[0])]
