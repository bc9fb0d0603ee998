"""Names, amounts and places that fill a sentence's slots, and a sentence's outward form. Knows no labels.

All names are made up here or are a kind of company ("the brewer"), so that no label can attach to a real one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from earlybell.inference.training.judgement.lexicon import section

_STARTS = section("names", "starts")
_MIDDLES = ("", "", "", "a", "e", "i", "o", "da", "ta", "ri", "mo", "na", "li", "ve", "to", "ga")
_ENDS = section("names", "ends")
_WORDS = section("names", "words")
_TRADES = section("names", "trades")
_FORMS = (
    "",
    "",
    "",
    "",
    " Inc",
    " Corp",
    " Group",
    " plc",
    " AG",
    " Ltd",
    " SA",
    " Holdings",
    " & Co",
    " ASA",
    " SE",
    " NV",
)
_KINDS = section("names", "kinds")
_PLACES = section("names", "places")
_GOODS = section("names", "goods")
_DRUGS = section("names", "drugs")
_BANKS = section("names", "banks")
_FIRST, _LAST = (
    (
        "Anna",
        "James",
        "Maria",
        "David",
        "Priya",
        "Chen",
        "Laura",
        "Peter",
        "Sofia",
        "Omar",
        "Julia",
        "Mark",
        "Karen",
        "Tom",
        "Elena",
    ),
    (
        "Berg",
        "Smith",
        "Okafor",
        "Rossi",
        "Tanaka",
        "Novak",
        "Silva",
        "Weber",
        "Patel",
        "Jones",
        "Larsen",
        "Dubois",
        "Kim",
        "Moore",
        "Haas",
    ),
)
_QUARTERS = section("names", "quarters")
_PERIODS = section("names", "periods")
_DAYS = section("names", "days")


def company(rng: random.Random) -> str:
    """Return a made-up company's name, or what kind of company it is: "the brewer"."""
    return rng.choice(_KINDS) if rng.random() < 0.07 else name(rng)


def name(rng: random.Random) -> str:
    """Return a made-up company's name."""
    draw = rng.random()
    if draw < 0.59:
        word = rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)
        return word + (f" {rng.choice(_TRADES)}" if rng.random() < 0.25 else rng.choice(_FORMS))
    if draw < 0.84:
        return f"{rng.choice(_WORDS)} {rng.choice(_TRADES)}"
    if draw < 0.9:
        return f"{rng.choice(_STARTS)}{rng.choice(_ENDS)} {rng.choice(('&', 'and'))} {rng.choice(_LAST)}"
    if draw < 0.96:
        return "".join(rng.choice("ABCDEFGHKLMNPRSTVWXZ") for _ in range(rng.choice((2, 3, 3, 4))))
    return rng.choice(_WORDS)


def cashtag(rng: random.Random) -> str:
    """Return a made-up ticker as social media write it."""
    return "$" + "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((2, 3, 3, 4, 4))))


def money(rng: random.Random, millions: float | None = None) -> str:
    """Return an amount of money in one of the ways that headlines write it."""
    value = millions if millions is not None else 10 ** rng.uniform(0.3, 4.3)
    large = value >= 1_000
    amount = value / 1_000 if large else value
    digits = f"{amount:.2f}" if rng.random() < 0.2 else f"{amount:.1f}" if amount < 20 else f"{amount:.0f}"
    digits = digits.removesuffix(".0")
    form = rng.choice(
        (
            "${} {}",
            "${}{}",
            "${} {}",
            "EUR {} {}",
            "€{}{}",
            "£{}{}",
            "{} {} euros",
            "{} {} pounds",
            "Rs {} {}",
            "SEK {} {}",
            "${} {}",
            "C${} {}",
        )
    )
    words = ("billion", "bln", "bn") if large else ("million", "mln", "mn")
    return form.format(
        digits, rng.choice(["B", "b"] if large else ["M", "m", "mn"]) if "}{}" in form else rng.choice(words)
    )


def percent(rng: random.Random, low: float = 1, high: float = 60) -> str:
    """Return a percentage."""
    value = rng.uniform(low, high)
    digits = f"{value:.1f}" if rng.random() < 0.3 else f"{max(1, round(value))}"
    return digits + rng.choice(("%", "%", "%", "%", " %", " percent", " pct"))


_FILLERS: dict[str, Callable[[random.Random], str]] = {
    "n": company,
    "r": name,  # may stand behind "rival"
    "m": money,
    "p": percent,
    "p2": lambda rng: f"{rng.randint(70, 98)}%",
    "k": lambda rng: rng.choice((f"{rng.randint(2, 60) * 50:,}", f"{rng.randint(20, 400)}")),
    "k2": lambda rng: str(rng.randint(3, 60)),
    "y": lambda rng: str(rng.randint(2009, 2031)),
    "y2": lambda rng: f"1.{rng.randint(0, 30):02d}",
    "d": lambda rng: rng.choice(_DAYS),
    "q": lambda rng: rng.choice(_QUARTERS),
    "pl": lambda rng: rng.choice(_PLACES),
    "g": lambda rng: rng.choice(_GOODS),
    "goods": lambda rng: rng.choice(_GOODS),
    "drug": lambda rng: rng.choice(_DRUGS),
    "bank": lambda rng: rng.choice(_BANKS),
    "person": lambda rng: f"{rng.choice(_FIRST)} {rng.choice(_LAST)}",
    "period": lambda rng: rng.choice(_PERIODS),
    "tag": cashtag,
}
_SLOT = re.compile(r"\{(\w+)\}")


def fill(rng: random.Random, templates: Sequence[str], **given: str) -> list[str]:
    """Fill the templates' slots, each name with the same value in all of them: what minimal pairs need."""
    values = dict(given)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            values[name] = _FILLERS[name](rng)
        return values[name]

    return [_SLOT.sub(value, _SLOT.sub(value, template)) for template in templates]


_TAGS = (
    "UPDATE 1-",
    "UPDATE 2-",
    "BRIEF-",
    "RPT-",
    "BREAKING: ",
    "JUST IN: ",
    "WRAPUP 1-",
    "EXCLUSIVE-",
    "ALERT: ",
    "*",
)
_SOURCES = (" - Reuters", " - sources", " -report", " - FT", " - Bloomberg", " | CNBC", " - WSJ", " -filing", " - TV")


def dress(rng: random.Random, texts: Sequence[str], *, tagged: bool = True) -> list[str]:
    """Give all texts of a group one outward form: case, a wire's tag, a source, a full stop. It changes no label."""
    draw, before, after = rng.random(), "", ""
    if tagged:
        tag = rng.random()
        if tag < 0.05:
            before = rng.choice(_TAGS)
        elif tag < 0.12:
            before = cashtag(rng) + rng.choice((" ", " - ", ": "))
        ending = rng.random()
        if ending < 0.05:
            after = rng.choice(_SOURCES)
        elif ending < 0.13:
            after = "."
    dressed = []
    for text in texts:
        form = text[0].upper() + text[1:]
        if draw < 0.07:
            form = text.lower()
        elif draw < 0.11:
            form = text.upper()
        elif draw < 0.24:
            form = " ".join(word if word[:1].isupper() else word[:1].upper() + word[1:] for word in text.split(" "))
        dressed.append(before + form + after)
    return dressed
