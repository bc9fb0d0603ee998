"""Compare the figures of a headline with those that were expected, or with those of the period before.

A small encoder reads "1.31" as pieces of a number and cannot subtract. So the comparison is made here, by rules, and
its result is read with the text, in words that the model knows: "Q2 EPS $1.42 vs $1.31 expected" is read as if it ended
in "beats estimates". Where it is not known whether more of what is measured is better, it is read as if it ended in
"Higher than before"; where the rules are not certain, nothing is added. Part of a model: see `Config.figures`.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

from earlybell.inference.model import figure_terms as terms

#: The rules' number, which is part of an answer's identity. Raise it whenever a verdict changes.
RULES = 3
#: What is added, by the sign of the comparison.
WORDS = {
    1: ". Results beat expectations; shares surge",
    0: " in line with estimates",
    -1: ". Results miss expectations; shares plunge",
}
#: What is added where it is not known whether more is better, by whether it was expected, and the direction.
DIRECTIONS = {
    (True, 1): ". More than expected",
    (True, -1): ". Less than expected",
    (False, 1): ". Higher than before",
    (False, -1): ". Lower than before",
}
#: Characters that are looked at: a headline's.
LONGEST = 300

#: Characters between the two figures, before the first and behind the second that may say what they are. Near ones need
#: fewer words that say that they are compared.
_GAP, _NEAR, _PREFIX, _BEHIND = 60, 25, 60, 45
#: Figures that differ by less than this share are level.
_LEVEL = 2e-3


@dataclass(frozen=True, slots=True)
class _Amount:
    start: int
    end: int
    value: float  # the middle of a range
    scale: float  # of the unit
    kind: str  # "percent", "points", "cents" or "": money and counts
    plain: bool  # neither a unit nor a currency
    estimate: bool  # "0.99e"
    signed: bool  # "+3%", "-3%"
    width: float = 0.0  # of a range, as a share of its middle


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two figures that a headline compares, and the words around them."""

    now: _Amount
    other: _Amount
    prefix: str
    gap: str
    behind: str
    known_first: bool = False  # in the text: what was expected stands before what came

    def sign(self) -> int | None:
        """Return the sign of the first against the second; None if it is not certain."""
        metrics = _metrics(self.prefix)
        counted = terms.COUNTED.match(self.gap)
        fewer = terms.FEWER.search(self.prefix) and not terms.MOVEMENT.search(self.gap + self.behind)
        gap = self.gap[counted.end() :] if counted else self.gap
        repeated = {match[0].lower() for metric in (terms.GOOD, terms.BAD) for match in metric.finditer(gap)}
        if not metrics:  # "13% fall in sales"
            metrics = [(-match.start(), -1) for match in terms.GOOD.finditer(self.gap)]
            metrics += [(-match.start(), 1) for match in terms.BAD.finditer(self.gap)]
            if fewer:
                metrics = [(at, -less) for at, less in metrics]
            elif not metrics and self.is_expected() and terms.EARNINGS.search(self.prefix) and not self.now.kind:
                metrics = [(0, -1)]
        elif repeated - terms.REPEATED and not self.known_first:
            return None
        if counted and terms.BAD.search(counted[0]):
            metrics = [(0, -1 if fewer else 1)]
        if not metrics and self.known_first:
            metrics = _metrics(self.behind)
        if not metrics or not self._is_performance():
            return None
        better = -max(metrics)[1]
        if self._changes_sides(better):
            better = -better if self.known_first else better
            return better if terms.SIDE.search(self.prefix) or terms.SIDE_OF.match(self.gap) else None
        return self._difference(better)

    def direction(self) -> int | None:
        """Return 1 if the first is larger than the second, -1 if it is smaller, of what no list of metrics has.

        Of a known metric `sign` says all: where it is not certain, the two may not be of the same thing.
        """
        alike = self.now.kind == self.other.kind or self.is_expected()
        if not alike or _metrics(self.prefix + self.gap) or not self._is_performance():
            return None
        return self._difference(1)

    def _is_performance(self) -> bool:
        """Whether it may be how a company or an economy does; not in "loses fewer subscribers", which counts losses."""
        words = self.prefix + self.gap + self.behind
        return not (terms.PRICE.search(words) or terms.LOSES_LESS.search(self.prefix))

    def _changes_sides(self, better: int) -> bool:
        """Whether one is a profit and the other a loss."""
        if better > 0:
            return bool(terms.LOSS.search(self.gap + self.behind))
        named = terms.SIDE_OF.sub("", self.gap)  # "a loss of 5 against 3 profit": which of them the first is
        return bool(terms.PROFIT.search(named + self.behind) and not terms.LOSS.search(named + self.behind))

    def is_expected(self) -> bool:
        """Whether the second figure is what was expected, not that of the period before."""
        return bool(self.other.estimate or terms.EXPECTED.search(self.gap) or terms.EXPECTED.search(self.behind))

    def _difference(self, better: int) -> int | None:
        values = _aligned(self.now, self.other)
        if values is None:
            return None
        reported, known = values
        fell = terms.FALL_OF.search(self.prefix)
        movement = fell or terms.MOVEMENT.search(self.gap + self.behind)
        level = not fell and (terms.LEVEL.search(self.prefix) or terms.MOVED_FROM.search(self.gap))
        if (self.now.kind in ("percent", "points") or movement) and not level:
            moved = re.match(r"\s*\w+", self.gap)
            rest = self.gap[moved.end() :] if moved else self.gap
            direction = -1 if fell else _direction(self.prefix, _direction(moved[0] if moved else "", 1))
            stated = terms.MOVED.match(self.behind)  # "a 51,000 gain"
            # A sign of its own says all.
            reported = reported * (direction if reported > 0 else 1)
            known = known * (_direction(stated[0] if stated else rest, direction) if known > 0 else 1)
        if better < 0 and reported > 0 > known:
            known = -known  # a loss has no sign, but some write one
        if self.is_expected() and self._agree(reported, known):
            return 0
        if reported == known:
            return None
        return better if reported > known else -better

    def _agree(self, reported: float, known: float) -> bool:
        """Whether figures are level, or one is well within the range that the other is."""
        width = max(self.now.width, self.other.width)
        return abs(reported - known) <= max(width / 4, _LEVEL) * abs(known)


def compared(text: str) -> int | None:
    """Return 1, 0 or -1 if a figure is better than, as good as or worse than another; None if that is not certain."""
    return _verdict(text)[0]


def with_verdict(text: str) -> str:
    """Return the text with the verdict on its figures behind it, if there is one."""
    return text + _verdict(text)[1]


def _verdict(text: str) -> tuple[int | None, str]:
    """Return the sign of the comparison, if it is certain, and the words that are read behind the text."""
    text = text[:LONGEST]
    lower = text.lower()
    if not terms.TWO.search(text) or not (any(hint in lower for hint in terms.HINTS) or terms.IN_BRACKETS.search(text)):
        return None, ""
    amounts = _amounts(text)
    signs: set[int | None] = {_by_itself(text, amount) for amount in amounts}
    directions: set[tuple[bool, int] | None] = set()
    expected, since = False, 0
    for index, (now, other) in enumerate(itertools.pairwise(amounts)):
        until = amounts[index + 2].start if index + 2 < len(amounts) else len(text)
        if pair := _pair(text, since, now, other, until):
            sign = pair.sign()
            signs.add(sign)
            expected |= sign is not None and pair.is_expected()
            direction = pair.direction() if sign is None else None
            directions.add((pair.is_expected(), direction) if direction else None)
        since = now.end
    signs.discard(None)
    if len(signs) == 1 and (sign := signs.pop()) is not None:
        return (None, "") if sign and _contradicted(text, sign, expected) else (sign, WORDS[sign])
    larger = directions.pop() if not signs and len(directions) == 1 else None
    return None, DIRECTIONS[larger] if larger else ""


def _contradicted(text: str, sign: int, expected: bool) -> bool:
    """Whether a word speaks against a verdict, or another metric against a comparison with the past."""
    if (terms.MISS if sign > 0 else terms.BEAT).search(text):
        return True
    others = () if expected else terms.OTHER_METRIC.finditer(text)
    return any((bool(other["good"]) == bool(other["up"])) != (sign > 0) for other in others)


def _metrics(words: str) -> list[tuple[int, int]]:
    """Return where metrics end, and whether less of each is good (1, and counts first) or bad (-1)."""
    return [(match.end(), less) for less, of in ((-1, terms.GOOD), (1, terms.BAD)) for match in of.finditer(words)]


def _amounts(text: str) -> list[_Amount]:
    amounts: list[_Amount] = []
    for match in terms.AMOUNT.finditer(text):
        unit, unit2, currency = ((match[name] or "").lower() for name in ("unit", "unit2", "currency"))
        plain = not (unit or unit2 or currency)
        if plain and not _is_figure(text, match, amounts[-1].end if amounts else None):
            continue
        scale = terms.SCALES.get(unit or unit2, 1.0)
        value = float(match["value"].replace(",", "")) * scale
        width = 0.0
        if match["value2"]:
            end = float(match["value2"].replace(",", "")) * terms.SCALES.get(unit2 or unit, 1.0)
            if terms.KINDS.get(unit) == "cents" and end * 20 < value:
                end *= 100  # "95 cents-$1.05"
            value, width = _middle(value, end)
        sign = (match["sign"] or match["inner"] or "").strip()
        # A parenthesis is a minus around a figure, not before words.
        if sign and sign != "+" and ("(" not in sign or text[match.end() : match.end() + 1] == ")"):
            value = -value
        kind, estimate = terms.KINDS.get(unit or unit2, ""), bool(match["estimate"])
        amount = _Amount(match.start(), match.end(), value, scale, kind, plain, estimate, bool(sign), width)
        if amounts and _is_range(text, amounts[-1], amount):
            first = amounts.pop()
            low = first.value * (scale if first.scale == 1.0 else 1.0)
            middle, width = _middle(low, value)
            amount = replace(amount, start=first.start, value=middle, width=width)
        amounts.append(amount)
    return amounts


def _middle(low: float, high: float) -> tuple[float, float]:
    """Return the middle of a range, and its width as a share of that."""
    middle = (low + high) / 2
    return middle, abs(high - low) / abs(middle) if middle else 0.0


def _is_figure(text: str, match: re.Match[str], last_end: int | None) -> bool:
    """Whether a number that has neither a unit nor a currency is a figure; the one before it ends at `last_end`."""
    if terms.PLAIN.fullmatch(match["value"]):
        return not re.match(r"[\w-]", text[match.end() :])
    if (
        match["value2"]
        or (len(match["value"]) == 4 and match["value"][:2] in ("19", "20"))
        or terms.NO_FIGURE.match(text[match.end() :])
    ):
        return False
    if last_end is not None and match[0].startswith("(") and text[match.end() : match.end() + 1] == ")":
        # "SEK 611m (488)"; "(1)" is a footnote.
        return len(match["value"]) > 1 and not text[last_end : match.start()].strip()
    return bool(terms.NAMED.search(text[max(0, match.start() - 40) : match.start()]))


def _is_range(text: str, low: _Amount, high: _Amount) -> bool:
    """Whether two figures are the ends of one: "$3.30 to $3.36", "between 4% and 5%"."""
    between, before = text[low.end : high.start].strip().lower(), text[max(0, low.start - 60) : low.start]
    if between == "and":
        return before.rstrip().lower().endswith("between")
    return (
        between == "to" and bool(terms.GUIDED.search(before)) and not re.search(r"\b(?:from|was|up|down)\s*$", before)
    )


def _by_itself(text: str, amount: _Amount) -> int | None:
    """Return the sign of a figure that is a difference: how far the reported one is from another."""
    prefix, behind = text[max(0, amount.start - _PREFIX) : amount.start], text[amount.end : amount.end + _BEHIND]
    by, beyond = terms.BY.search(prefix) if prefix.endswith("by ") else None, terms.BEYOND.match(behind)
    on_the_year = amount.kind in ("percent", "points") and terms.ON_THE_YEAR.match(behind)
    if not (by or beyond or on_the_year) or terms.PRICE.search(prefix):
        return None
    metrics = _metrics(prefix)
    if not metrics:
        return None
    better = -max(metrics)[1]
    moved = re.search(r"\w+\s*$", prefix)
    direction = _direction(moved[0] if moved else "", 0)
    if by:
        return None if terms.RATES.search(prefix) or terms.EXPECTED.search(behind) else 1 if by["beat"] else -1
    if beyond:  # "falls 3% less than expected" may mean either
        absolute = bool(beyond["better"]) - bool(beyond["worse"])
        return absolute or (better * (1 if beyond["more"] or beyond["more2"] else -1) if direction >= 0 else None)
    if terms.EXPECTED.search(text) or terms.HOWEVER.search(text) or terms.RATES.search(prefix):
        return None
    return better * ((1 if amount.value > 0 else -1) if amount.signed else direction) or None


def _pair(text: str, since: int, now: _Amount, other: _Amount, until: int) -> _Pair | None:
    """Return two figures that follow one another, if the words around them compare them."""
    prefix, gap = text[max(since, now.start - _PREFIX) : now.start], text[now.end : other.start]
    behind = terms.NEXT_CLAUSE.split(text[other.end : min(until, other.end + _BEHIND)])[0]
    if (
        gap.strip().lower() == "to"
        and re.search(r"\bfrom\s*$", prefix, re.IGNORECASE)
        and not terms.RANGE.search(prefix)
    ):
        return _Pair(other, now, prefix, gap, behind)  # "from 5% to 4%"
    if _bracketed(text, now, other):
        value = other.value if re.search("[-−]", text[other.start : other.end]) else abs(other.value)
        return _Pair(now, replace(other, value=value), prefix, gap, "")
    if terms.DIFFERENCE.match(gap) or terms.BEYOND.match(behind) or (now.kind and terms.BEYOND.match(gap)):
        return None  # one of them is how far apart two others are
    said_first = terms.SAID_FIRST.search(prefix) and terms.THEN_CAME.match(gap)
    if terms.EXPECTED_FIRST.search(gap) or (said_first and not terms.EARLIER.search(gap + behind)):
        return _Pair(other, now, prefix, gap, behind if said_first else "", known_first=True)
    apart = (
        len(gap) > _GAP or _rates_of_two_periods(gap, behind) or terms.NEXT_SENTENCE.search(gap) or terms.TO.search(gap)
    )
    pair = _Pair(now, other, prefix, gap, behind)
    if apart or not (other.estimate or _compares(gap, behind)):
        return None
    # A forecast against the past tells nothing new, and a change may count less than what "but" brings.
    withheld = not pair.is_expected() and (terms.AWAITED.search(prefix) or terms.HOWEVER.search(text))
    return None if withheld else pair


def _rates_of_two_periods(gap: str, behind: str) -> bool:
    """Whether two figures are rates that stand side by side: "-0.3% q/q, -2.5% y/y"."""
    first, second = terms.RATE_OF.match(gap), terms.RATE_OF.match(behind)
    return bool(first and second and first[1].lower() != second[1].lower())


def _bracketed(text: str, now: _Amount, other: _Amount) -> bool:
    """Whether the second figure stands in brackets behind the first, as reports give that of the period before."""
    first, second = text[now.start : now.end].strip(), text[other.start : other.end].strip()
    if not second.startswith("(") or first.startswith("(") or text[other.end : other.end + 1] != ")":
        return False
    currency = re.search(terms.CURRENCY, second, re.IGNORECASE)
    alike = now.kind == other.kind or other.plain
    return (
        alike
        and (currency is None or currency[0].lower() in first.lower())
        and bool(
            re.fullmatch(
                r"\s*(?:M?[A-Z]{3})?(?: (?:per|a) share| at (?:half-year|year-end|quarter-end))?\s*",
                text[now.end : other.start],
            )
        )
    )


def _compares(gap: str, behind: str) -> bool:
    """Whether the words between two figures, or behind them, say that the first is held against the second."""
    ahead = terms.CLOSED.split(gap)[-1]  # what stands before belongs to the first
    if terms.EXPECTED.search(ahead) or terms.EARLIER.search(ahead):
        return True
    if terms.BARE_EARLIER.fullmatch(gap):
        return not terms.TAKEN_OFF.match(behind)
    named = bool(terms.EXPECTED.search(behind) or terms.EARLIER.search(behind))
    if ";" in gap:
        return False
    if terms.AGAINST.search(gap):
        return named or len(gap) < _NEAR
    return named and bool(terms.NOTHING.fullmatch(gap))


def _aligned(now: _Amount, other: _Amount) -> tuple[float, float] | None:
    """Return both values in one unit; None if they cannot be compared."""
    scale = max(now.scale, other.scale)
    first, second = (of.value * (scale / of.scale if of.plain else 1.0) for of in (now, other))
    if now.kind != other.kind and not (now.plain or other.plain):
        if {now.kind, other.kind} != {"", "cents"}:
            return None
        first, second = (value / 100 if of.kind else value for value, of in ((first, now), (second, other)))
    if first * second > 0 and now.kind != "percent" and not 1 / 50 < first / second < 50:
        return None  # more likely units that were misread
    return first, second


def _direction(words: str, default: int) -> int:
    """Return 1 if the last of the words that say where a figure moved is up, -1 if it is down."""
    up = max((match.end() for match in terms.UP.finditer(words)), default=0)
    down = max((match.end() for match in terms.DOWN.finditer(words)), default=0)
    return default if up == down else 1 if up > down else -1
