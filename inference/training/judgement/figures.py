"""Figures: reported against expected or against the period before, with the label that the comparison implies."""

from __future__ import annotations

import random
from dataclasses import dataclass

from earlybell.inference.training.judgement.lexicon import section
from earlybell.inference.training.judgement.words import company, fill

Group = list[tuple[int, str]]  # sign (+1 good, 0 neither, -1 bad) and text

#: Metrics, and +1 where more is good.
_GOOD = section("figures", "good")
_BAD = section("figures", "bad")
_ECONOMY_GOOD = section("figures", "economy_good")
_ECONOMY_BAD = section("figures", "economy_bad")
_QUARTERS = (
    "Q1",
    "Q2",
    "Q3",
    "Q4",
    "FY",
    "H1",
    "first-quarter",
    "third-quarter",
    "quarterly",
    "full-year",
    "fourth-quarter",
    "second-quarter",
    "1Q",
    "Q2 2019",
    "Q4 FY21",
    "half-year",
    "nine-month",
    "",
)
_EXPECTED = section("figures", "expected")
_BEFORE = section("figures", "before")
_VERBS = (
    "",
    "",
    "",
    "of ",
    "at ",
    "was ",
    "came in at ",
    "totalled ",
    "is ",
    "reached ",
    ": ",
    "hit ",
    "stood at ",
    "comes in at ",
    "printed at ",
)


@dataclass(frozen=True)
class _Unit:
    form: str
    low: float
    high: float
    digits: int


_SHARE = (
    _Unit("${}", 0.03, 6, 2),
    _Unit("{} cents", 3, 95, 0),
    _Unit("{}c", 3, 95, 0),
    _Unit("{}p", 2, 90, 1),
    _Unit("EUR {}", 0.05, 9, 2),
    _Unit("${} a share", 0.05, 5, 2),
    _Unit("${} per share", 0.05, 5, 2),
)
_MONEY = (
    _Unit("${}M", 3, 990, 1),
    _Unit("${}B", 1, 60, 2),
    _Unit("${} million", 3, 990, 1),
    _Unit("${} mln", 3, 990, 0),
    _Unit("EUR {} mn", 3, 990, 1),
    _Unit("${} billion", 1, 40, 1),
    _Unit("Rs {} crore", 3, 990, 0),
    _Unit("{} million euros", 3, 990, 0),
    _Unit("£{}m", 3, 900, 0),
    _Unit("SEK {} million", 10, 990, 0),
    _Unit("{} bln yen", 5, 900, 1),
    _Unit("C${} mln", 3, 900, 1),
    _Unit("{} mln stg", 3, 900, 1),
    _Unit("EUR {}m", 3, 990, 0),
    _Unit("$ {} million", 3, 990, 1),
    _Unit("DKK {} bn", 1, 50, 1),
)
_RATE = (_Unit("{}%", 0.4, 25, 1), _Unit("{} %", 0.4, 25, 1), _Unit("{} percent", 0.4, 25, 1), _Unit("{}%", 2, 60, 0))
_COUNT = (
    _Unit("{}K", 20, 900, 0),
    _Unit("{},000", 20, 900, 0),
    _Unit("{} million", 1, 60, 1),
    _Unit("{}k", 20, 600, 0),
)
_POINTS = (_Unit("{}", 35, 110, 1),)
_SHARES_METRICS = section("figures", "shares_metrics")
_RATE_METRICS = section("figures", "rate_metrics")
_COUNT_METRICS = section("figures", "count_metrics")
_POINT_METRICS = section("figures", "point_metrics")


def _unit(rng: random.Random, metric: str) -> _Unit:
    for metrics, units in (
        (_SHARES_METRICS, _SHARE),
        (_RATE_METRICS, _RATE),
        (_COUNT_METRICS, _COUNT),
        (_POINT_METRICS, _POINTS),
    ):
        if metric in metrics:
            return rng.choice(units)
    return rng.choice(_MONEY)


def _two_values(rng: random.Random, unit: _Unit) -> tuple[str, str]:
    """Return two amounts, the smaller first, as they are written."""
    while True:
        low = rng.uniform(unit.low, unit.high)
        high = low * (1 + (rng.uniform(0.01, 0.12) if rng.random() < 0.6 else rng.uniform(0.1, 1.5)))
        digits = max(0, unit.digits - 1) if rng.random() < 0.2 else unit.digits
        written = f"{low:.{digits}f}", f"{high:.{digits}f}"
        if float(written[0]) < float(written[1]):
            return unit.form.format(written[0]), unit.form.format(written[1])


def against_expected(rng: random.Random) -> Group:
    """Return a pair (or, at times, a match with the estimate): the same two figures, exchanged."""
    return _compared(rng, _EXPECTED, expected=True)


def against_before(rng: random.Random) -> Group:
    """Return a pair: a figure now and a period earlier, exchanged."""
    return _compared(rng, _BEFORE, expected=False)


def _compared(rng: random.Random, tails: tuple[str, ...], *, expected: bool) -> Group:
    economy = rng.random() < 0.2
    bad = rng.random() < 0.25
    metric = rng.choice((_ECONOMY_BAD if bad else _ECONOMY_GOOD) if economy else (_BAD if bad else _GOOD))
    low, high = _two_values(rng, _unit(rng, metric))
    tail = rng.choice(tails)
    place = (
        rng.choice(("US ", "German ", "UK ", "China ", "India ", "Eurozone ", "Japan ", "French ", "Canada ", ""))
        if economy
        else ""
    )
    name, quarter = company(rng), rng.choice(_QUARTERS)
    verb = rng.choice(_VERBS)
    if economy:
        shape = f"{place}{metric} {verb}{{v}}"
    else:
        shape = rng.choice(
            (
                f"{name} {quarter} {metric} {verb}{{v}}", f"{quarter} {metric} {verb}{{v}}",
                f"{name} reports {quarter} {metric} of {{v}}", f"{name} {metric} {verb}{{v}}",
                f"{name} posts {quarter} {metric} of {{v}}", f"{name}: {quarter} {metric} {verb}{{v}}",
                f"{name}'s {quarter} {metric} {verb}{{v}}", f"{quarter} {metric} at {name} {verb}{{v}}",
                f"{name} Q3 results: {metric} {verb}{{v}}", f"{metric} {verb}{{v}}",
                f"{name} sees {quarter} {metric} of {{v}}" if expected else f"{name} made {quarter} {metric} of {{v}}",
                f"{name} forecasts {metric} of {{v}}" if expected else f"{metric} of {name} {verb}{{v}}",
            )
        )  # fmt: skip
        if metric in ("EPS", "earnings") and rng.random() < 0.15:
            shape = rng.choice(
                (f"{name} earned {{v}}", f"{name} made {{v}}", f"{name} earns {{v}} in {quarter or 'Q2'}")
            )
    sign = -1 if bad else 1

    def sentence(now: str, other: str) -> str:
        text = f"{shape.format(v=now)} {tail.format(e=other)}"
        for wrong in (" ,", " ;"):
            text = text.replace(wrong, wrong.strip())
        return " ".join(text.split())

    group = [(sign, sentence(high, low)), (-sign, sentence(low, high))]
    if expected and rng.random() < 0.12:
        group.append((0, sentence(high, high)))
    if bad and rng.random() < 0.3 and not economy:  # the word "loss" in front of both figures
        group = [(value, text.replace(" vs ", " vs loss of ", 1)) for value, text in group]
    return group


_SURVEY = section("figures", "survey")
_CHANGE_BAD, _CHANGE_GOOD = section("figures", "change bad"), section("figures", "change good")
_CHANGE_SHAPES = section("figures", "change shapes")
_LOSS_SHAPES = section("figures", "loss shapes")
_SWING_SHAPES = section("figures", "swing shapes")
_BARE_SHAPES = section("figures", "bare shapes")


def change_against_expected(rng: random.Random) -> Group:
    """Return a pair: a change in percent against the change that was expected."""
    bad = rng.random() < 0.2
    metric = rng.choice(_CHANGE_BAD if bad else _CHANGE_GOOD)
    small, large = rng.uniform(0.3, 9), rng.uniform(1.5, 12)
    large += small
    if rng.random() < 0.6:
        small, large = max(1.0, float(round(small))), max(2.0, float(round(large)))
        if small >= large:
            large = small + 2
    low, high = (f"{value:.1f}".removesuffix(".0") for value in (small, large))
    if low == high:
        high = f"{large + 1:.1f}"
    up = rng.random() < 0.5
    sign = (1 if up else -1) * (-1 if bad else 1)
    verb = rng.choice(
        ("rise", "climb", "grow", "increase", "are up", "gain")
        if up
        else ("fall", "drop", "decline", "slip", "are down", "slide", "shrink")
    )
    noun = rng.choice(("rise", "increase", "gain", "jump") if up else ("fall", "drop", "decline", "slide"))
    survey, name = rng.choice(_SURVEY), company(rng)
    shape = rng.choice(_CHANGE_SHAPES)
    direction = "up" if up else "down"

    def sentence(a: str, b: str) -> str:
        return shape.format(
            metric=metric, verb=verb, a=a, b=b, survey=survey, noun=noun, name=name, direction=direction
        )

    return [(sign, sentence(high, low)), (-sign, sentence(low, high))]


def loss_against(rng: random.Random) -> Group:
    """Return a pair about a loss, smaller and larger than expected or than before."""
    low, high = _two_values(rng, rng.choice(_SHARE + _MONEY))
    name, quarter = company(rng), rng.choice(_QUARTERS)
    shape = rng.choice(_LOSS_SHAPES)

    def sentence(a: str, b: str) -> str:
        return " ".join(shape.format(name=name, quarter=quarter, a=a, b=b).split())

    return [(1, sentence(low, high)), (-1, sentence(high, low))]


def swing(rng: random.Random) -> Group:
    """Return a pair: a profit after a loss, and a loss after a profit."""
    (a, b), name, quarter = _two_values(rng, rng.choice(_MONEY)), company(rng), rng.choice(_QUARTERS)
    shape = rng.choice(_SWING_SHAPES)

    def sentence(x: str, y: str) -> str:
        return " ".join(shape.format(name=name, quarter=quarter, a=a, b=b, x=x, y=y).split())

    profit = rng.choice(("profit", "profit", "net profit"))
    loss = rng.choice(("loss", "net loss"))
    return [(1, sentence(profit, loss)), (-1, sentence(loss, profit))]


def bare(rng: random.Random) -> Group:
    """Return a figure with nothing to compare it with: neutral."""
    metric = rng.choice(("EPS", "revenue", "sales", "net profit", "turnover", "net income", "EBITDA"))
    value, _ = _two_values(rng, _unit(rng, metric))
    shape = rng.choice(_BARE_SHAPES)
    return [(0, fill(rng, [shape], metric=metric, v=value)[0])]
