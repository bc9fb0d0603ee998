from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from earlybell.inference.training.data import Example
from earlybell.inference.training.judgement.mining import certain_label, mine

GOOD = ("UPDATE 1-Tolva Q2 profit rises 12 pct", "Fitch Upgrades Tolva to 'BBB'; Outlook Stable", "Tolva loss narrows")
BAD = ("Tolva files for Chapter 11", "UPDATE 2-Tolva cuts full-year outlook", "Moody's downgrades Tolva to Ba1")
PLAIN = ("Tolva to report third-quarter results on May 4", "Tolva appoints Ann Berg as finance director")


@pytest.mark.parametrize(
    ("headline", "sign"),
    [*((text, 1) for text in GOOD), *((text, -1) for text in BAD), *((text, 0) for text in PLAIN)],
)
def test_a_certain_headline(headline: str, sign: int) -> None:
    label = certain_label(headline)
    assert label is not None
    assert label[0] == sign


@pytest.mark.parametrize(
    "headline",
    [
        "Tolva profit rises but outlook cut",  # two signs
        "Tolva may cut its outlook",  # doubt
        "Tolva denies it files for bankruptcy",
        "College team downgraded to second league",  # not business
        "What the weather will bring",  # no rule
    ],
)
def test_anything_doubtful_is_left_alone(headline: str) -> None:
    assert certain_label(headline) is None


@pytest.mark.parametrize(
    ("headline", "sign"),
    [
        ("Tolva Q3 EPS $1.31 vs view $1.22", 1),
        ("Tolva Q3 EPS $1.12 vs view $1.22", -1),
        ("Tolva Q3 EPS $1.22 vs consensus $1.22", 0),
        ("Tolva Q2 revenue 4,120 million vs 3,980 million", 1),
        ("Tolva H1 loss 12 mln vs 31 mln", 1),
        ("Tolva H1 loss 31 mln vs 12 mln", -1),
    ],
)
def test_two_figures_are_compared(headline: str, sign: int) -> None:
    assert certain_label(headline) == (sign, "figures")


@pytest.mark.parametrize(
    "headline",
    [
        "Tolva Q2 profit 12 mln vs loss 4 mln",  # the sign of one of the two is another
        "Tolva Q3 sales 1.2 billion vs 900 million",  # units differ
        "Tolva cuts outlook, Q3 EPS $1.31 vs view $1.22",  # a rule that disagrees
    ],
)
def test_figures_that_cannot_be_compared_are_left_alone(headline: str) -> None:
    label = certain_label(headline)
    assert label is None or label[1] != "figures"


def test_mining_levels_the_labels_and_leaves_out_what_is_excluded(tmp_path: Path) -> None:
    file = tmp_path / "headlines.txt"
    file.write_text("\n".join([*GOOD, *BAD, *PLAIN, "Tolva appoints Bo Lund as chairman", "Something else"]))
    mined = mine(file, 9, 1)
    assert Counter(example.label for example in mined) == {"positive": 3, "negative": 3, "neutral": 3}
    excluded = [Example(text, "positive", "tfns") for text in GOOD]
    assert {example.label for example in mine(file, 9, 1, excluded)} == {"negative", "neutral"}
