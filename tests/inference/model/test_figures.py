"""Figures are compared by rules: right, or not at all."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.engine import open_engine
from earlybell.inference.model.checkpoint import SHIPPED
from earlybell.inference.model.figures import DIRECTIONS, LONGEST, RULES, WORDS, compared, with_verdict
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.judgement import figures as grammar

#: Fewest of the grammar's pairs that must be compared. What is not is left to the model.
COMPARED = 0.8


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Q3 EPS $0.85 vs $1.02 expected", -1),
        ("Q3 EPS $1.02 vs $0.85 expected", 1),
        ("Q3 EPS $1.02 vs $1.02 expected", 0),
        ("Adj. EPS 41c versus consensus of $0.47", -1),
        ("EPS ($0.12) vs ($0.20) est", 1),
        ("EPS -$0.20, est. -$0.12", -1),
        ("Revenue $910M-$930M, analysts at $880M", 1),
        ("Sales EUR 712 mln (consensus EUR 698 mln)", 1),
        ("Sales of 1.2 billion against 980 million a year earlier", 1),
        ("Sales 4.5 vs 4.6 billion expected", -1),
        ("Net loss narrows to $3 million from $40 million", 1),
        ("Net loss $40 million vs $3 million a year ago", -1),
        ("Loss of $0.05 a share against estimates for a loss of $0.12", 1),
        ("Profit of $2 million vs loss of $9 million last year", 1),
        ("Loss of $2 million vs profit of $9 million last year", -1),
        ("Net profit of 2.56 bln yen vs 5.29 bln yen loss year earlier", 1),
        ("Profit falls 3% against a forecast of 10%", 1),
        ("Profit falls 10% against a forecast fall of 3%", -1),
        ("13% fall in sales compares with 7% forecast by analysts", -1),
        ("Margin falls to 14.1% from 15.8%", -1),
        ("Unemployment falls to 3.9% from 4.1%", 1),
        ("Unemployment fell from 4.1% to 3.9%", 1),
        ("CPI rises 0.5% vs 0.3% expected", -1),
        ("Payrolls 98K vs 175K expected", -1),
        ("Deliveries of 435,000 against the 410,000 the market expected", 1),
        ("PMI at 47.3 from 50.1", -1),
        ("Sales rose 5%. Costs of $4.2 million vs $4.0 million", -1),
        # The period before in brackets, with or without its name.
        ("Earnings per share EUR 0.61 (0.47)", 1),
        ("Operating margin 9.4 % (11.2 %) in April-June", -1),
        ("Order intake 288.4 MEUR (311.0)", -1),
        ("Order intake MEUR 311 (288)", 1),
        ("EBITA SEK 488m (611)", -1),
        ("Net debt £122m (2021: £188m)", 1),
        ("Cost/income ratio 56.8% (Q2: 51.3%)", -1),
        ("Assets under management £57.9bn (31 December: £61.4bn) as inflows slow", -1),
        ("Operating result EUR 2.0 million (EUR -1.2 million)", 1),
        # Fewer of what is counted, and falls of what was expected to fall.
        ("Acme sheds 40,000 subscribers; the Street had said 110,000", 1),
        ("Acme sheds 110,000 subscribers; the Street had said 40,000", -1),
        ("Factory orders dip 0.4% vs 2% decline seen", 1),
        ("NIM contracts 15 bps, brokers feared 3", -1),
        # A tweet's earnings per share.
        ("$ACME 0.49 vs 0.55 expected", -1),
        ("$ACME Q2: -$0.03 vs -$0.11 exp", 1),
        # What was expected first.
        ("61,000 jobs were expected; 118,000 were created", 1),
        # A figure's own sign, and a direction that stands before it.
        ("Comparable sales off 0.8%, consensus was for a 3.2% drop", 1),
        ("Sales drop 1.8%; estimates ranged from -2.4% to -5.2%", 1),
        ("FCF minus €40m, consensus minus €95m", 1),
        # Words of which more is good, within words of which more is bad.
        ("Cost/income 54%, consensus 58%", 1),
        ("Staff turnover 9% against 16% a year earlier", 1),
        ("Cost guidance of $1,250/oz, analysts had modelled $1,190", -1),
        ("Mortgage repossession orders 9,100 against 8,200 a year earlier", -1),
        ("Cost-income ratio at 67% from 58%", -1),
        # The difference itself.
        ("EPS $2.11 trails estimates by 14 cents", -1),
        ("GAAP EPS of -$0.14 beats by $0.06, revenue of $98.4M beats by $2.1M", 1),
        ("Revenue $20 million better than the Street's $64 million", 1),
        ("Sales of the new pill were $0.9bn, $200m less than analysts had modelled", -1),
        ("Q1 sales 3% above consensus, costs 7% below", 1),
        ("H1 net profit EUR 6 mln, up 31 pct y/y", 1),
        ("Gross margin 41.7%, down 120 basis points from a year earlier", -1),
        ("H1 trade gap down 22.8 pct y/y to $6.8 bln", 1),
        # A broker's mark, abbreviations, points, whole numbers, other currencies.
        ("Loses 8 cents a share, analysts expected 21-cent loss", 1),
        ("Net profit Rs 412 cr Vs Rs 365 cr (YoY), revenue at Rs 2,311 cr Vs Rs 2,102 cr (YoY)", 1),
        ("EPS .36 v .41e, revs 204M v 212Me", -1),
        ("*3Q REV. $4.61B, EST. $4.45B", 1),
        ("EBITDA €512m (cons. €490m); FCF €201m (cons. €170m)", 1),
        ("Charge-offs 71 bps, analysts had 38 bps", -1),
        ("Consumer confidence 94, economists had 91", 1),
        ("Net profit RM45.2 mil, down from RM60.1 mil", -1),
        ("Dividend 14p per share (12.5p)", 1),
        # Ranges in words.
        ("Sees Q1 sales of $900 million to $950 million; consensus $870 million", 1),
        ("Expects FY EPS between $5.40 and $5.60 (Street: $5.88)", -1),
        # What was expected first, in a clause of its own.
        ("Analysts had pencilled in 410 million euros; the bank made 355 million", -1),
        ("Forecast was for a 90 million loss, the brewer loses 62 million", 1),
        ("Analysts had seen a profit of 12m; posts a loss of 38m", -1),
        ("Consensus was $5.0 billion; the grocer reports $4.8 billion in sales", -1),
        ("Q1 EPS VIEW $0.28; ACTUAL $0.35", 1),
        ("Posted 9% growth in sales a year ago; this time: 1%", -1),
        # What was counted, and how it moved.
        ("Adds 2.1 million new subscribers, analysts expected 4.5 million", -1),
        ("Lost 97,000 subscribers, compared with the 300,000 it had warned of", 1),
        ("Sheds 32,000 jobs, economists had expected a gain of 15,000", -1),
        ("Payrolls fell 32,000, economists looked for a 51,000 gain", -1),
        ("Organic sales decline of 2.9% milder than the 4.1% of the poll", 1),
        ("Bookings decline deepens to 9%, Street at a 2% decline", -1),
        ("Drop in sales slows to 2% from 9% in the prior quarter", 1),
        ("Curbs dent enrolments by 2%, 20% was predicted", 1),
        ("Earnings seen down 10-15%, revised from 25-30%", 1),
        # Levels, whichever way they moved.
        ("Gross margin 31%, down from 35%", -1),
        ("Net retention 108%, up from 102%", 1),
        ("Unemployment 4.1%, up from 3.9%", -1),
        ("Charge-off rate 3.4% vs 2.9% in the prior month", -1),
        ("Trust's discount to NAV narrows to 18% from 31%", 1),
        ("Net outflow $310 million, analysts had $1.2 billion", 1),
        # A loss on one side and a profit on the other; a loss with a sign.
        ("Posts Rs1.1bn loss against Rs8.2bn profit a year earlier", -1),
        ("Posts Rs 64-crore profit against Rs 118-crore loss a year ago", 1),
        ("Sees loss per share of 30c-45c, Street -62c", 1),
        ("Losses, 300 million last winter, are 40 million this winter", 1),
        # As good as level, and a range around what was expected.
        ("Revenue $744.0M vs $744.3M est.", 0),
        ("Sees FY EPS $3.30-3.40 vs. $3.35 cons.", 0),
        ("Sees FY EPS 95 cents-$1.05; analysts' view $1.22", -1),
        ("Fee income up 9% where brokers saw 5%", 1),
    ],
)
def test_what_is_compared(text: str, sign: int) -> None:
    assert compared(text) == sign
    assert with_verdict(text) == text + WORDS[sign]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Acme wins $5 billion contract",
        "Q3 2025 results on May 4",
        "UPDATE 2-Boeing to sell 99 V-22 aircraft from 2011",
        "DIARY - earnings from Nov 30 to Dec 14",
        "Price target raised to $24 from $20",
        "Shares at $24.10 from $20.05",
        "EPS $1.10, est. $1.05; revenue $3.2B, est. $3.3B",
        "Revenues of $44.3bn and an operating profit of $10.0bn",
        "Sees EBITDA between a loss of $250,000 and a profit of $250,000",
        "Sales of 5% vs $5 million expected",
        "EPS $1.10 vs 110 million expected",
        "Tops $1.12 EPS view with $1.20",
        "Analysts' sales estimates ranged from 2.1% to 5.2%",
        "Net loss $12.4 million ($0.35 per share)",
        "Revenue of $1.2 million (€1.1 million)",
        "Cash EPS of $0.29 (1) and GAAP EPS of $0.27",
        "Sales of $5.5 million (4.2%)",
        # Two metrics, or a contrary word.
        "EPS of $0.31 beats by $0.04, revenue of $410M misses by $6M",
        "Sales 3% above consensus, EBIT 7% below",
        "EPS 0.67 (est 0.60) Rev 1.21B (est 1.28B)",
        "Revenue up 8% to $410M, EPS down to $0.31 from $0.40",
        "EPS $1.10 vs $1.05 expected, but cuts full-year outlook",
        "EPS $1.10 vs $1.05 expected, shares fall",
        "Profit of $5.1 million from $4.2 million despite a strike",
        "H1 profit up 52 pct y/y, below forecast",
        # Differences of what is no metric, or in a direction that may mean either.
        "Wins by 12 points, 20 more than last year",
        "CPI beats forecasts by 0.2 points",
        "Profit falls 3% less than expected",
        "CPI up 2.4% y/y",
        "Sheds fewer subscribers than the Street forecast: 61K vs 140K",
        "Net outflow $48M, year-ago inflow $212M",
        "Sales of $5.2 million against costs of $4.1 million",
        "Sensex down 900 points, Nifty below 25,000",
        "4% above the Street on EBIT, 6% on cash",
        "Turns forecast of 2% growth in sales into 5% decline",
        "UK wage growth 5.9% vs 5.5% forecast",
        "Narrows EPS range to $5.40-$5.50 from $5.35-$5.55",
        # A forecast against the past.
        "Preview: expected to post EPS of $0.40 vs $0.31 year ago",
        # Figures side by side, of other things, or that something takes off.
        "GDP -0.3 pct q/q, -2.5 pct y/y",
        "Profit of $5 million after $3 million charge",
        "Revenue of $1.2 billion.\nLast year: $4.8 billion",
        "$5 PT consensus, $4 top analyst",
        "Valued at 49.4 times its expected EPS, against a multiple of 30.4",
        "Revenue of $80 million vs market cap of $10 million",
        "Analysts expect EPS of $1.10; it earned $0.90 a year earlier",
        "Sales in 20 countries, 12 expected in May",
        "Results of 12 analysts, 2026 estimates",
    ],
)
def test_what_is_not_certain_is_left_to_the_model(text: str) -> None:
    assert compared(text) is None
    assert with_verdict(text) == text


@pytest.mark.parametrize(
    ("text", "expected", "direction"),
    [
        ("Dwell time in terminals 22.1 hours, year ago 27.8 hours", False, -1),
        ("Average grade 2.4 g/t, up from 1.9 g/t", False, 1),
        ("Fed raises rates to 5.25% from 5%", False, 1),
        ("Stake falls below 3% from 18%", False, -1),
        ("Sold 3/4 of the calls at $5.00 from $3.80", False, 1),
        ("Weight loss with new pill 9.5%, analysts wanted 15.2%", True, -1),
        ("Buyback of $500M vs $1.5B that the Street had seen", True, -1),
        ("Crude draw 7.1 million barrels vs 0.4 million expected", True, 1),
        ("Economy shrank 0.3%, worse than the market's -0.2%", True, -1),
    ],
)
def test_where_the_metric_is_not_known_only_the_direction_is_said(text: str, expected: bool, direction: int) -> None:
    assert compared(text) is None
    assert with_verdict(text) == text + DIRECTIONS[expected, direction]


@pytest.mark.parametrize(
    "pairs",
    [
        grammar.against_expected,
        grammar.against_before,
        grammar.change_against_expected,
        grammar.loss_against,
        grammar.swing,
        grammar.bare,
    ],
)
def test_no_verdict_is_wrong(pairs: Callable[[random.Random], grammar.Group]) -> None:
    draw = random.Random(11)
    sentences = [sentence for _ in range(200) for sentence in pairs(draw)]
    verdicts = [(compared(text), sign, text) for sign, text in sentences]
    assert [found for found in verdicts if found[0] not in (None, found[1])] == []
    certain = [sign for sign, _ in sentences if sign]
    assert sum(found is not None for found, *_ in verdicts) >= COMPARED * len(certain)


@given(st.decimals("0.01", "9000", places=2), st.decimals("0.01", "9000", places=2))
def test_exchanged_figures_exchange_the_verdict(first: object, second: object) -> None:
    for shape in ("EPS ${} vs ${} expected", "Revenue of EUR {}m, consensus {}m", "Net loss {} mln from {} mln"):
        there, back = compared(shape.format(first, second)), compared(shape.format(second, first))
        assert there == (None if back is None else -back)


@given(st.text(), st.text("0123456789.,%$()- vsfromto", max_size=80))
def test_any_text_is_read(text: str, figures: str) -> None:
    assert with_verdict(text + figures).startswith(text + figures)


def test_the_rules_have_a_number_in_an_answers_identity(tiny_checkpoint: Path) -> None:
    assert f".figures{RULES}" in open_engine(precision="float32").description.arithmetic
    assert "figures" not in open_engine(checkpoint=tiny_checkpoint, precision="float32").description.arithmetic


def test_a_rule_that_changes_verdicts_has_another_number() -> None:
    """Raise `RULES` if this fails because of a rule; a new sentence of the grammar only needs the new digest."""
    draw = random.Random(12)
    shapes = [grammar.against_expected, grammar.against_before, grammar.change_against_expected, grammar.loss_against]
    sentences = [text for _ in range(300) for pairs in shapes for _, text in pairs(draw)]
    digest = hashlib.sha256(str([compared(text) for text in sentences]).encode()).hexdigest()
    assert (RULES, digest[:16]) == (3, "be45f6869b7bd133")


def test_only_a_headline_is_looked_at() -> None:
    figures = "EPS $1.42 vs $1.31 expected"
    assert compared("x" * (LONGEST - len(figures) - 1) + " " + figures) == 1
    assert compared("x" * LONGEST + " " + figures) is None


def test_a_reader_reads_the_verdict_only_if_its_model_does() -> None:
    text = "profit $5 vs $4 expected"
    file = SHIPPED / "tokenizer.json"
    plain, reading = (Reader.open(file, 64, figures=figures).read([text, "profit"]) for figures in (False, True))
    told = Reader.open(file, 64).read([text + WORDS[1], "profit"])
    assert plain.ids.tolist() != told.ids.tolist()
    assert reading.ids.tolist() == told.ids.tolist()
