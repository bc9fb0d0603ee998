from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from earlybell.inference.training.behaviour import read_suite
from earlybell.inference.training.judgement import written
from earlybell.inference.training.judgement.lexicon import files, sections
from earlybell.inference.training.judgement.words import fill

SUITE = Path(__file__).parents[3] / "behaviour"
LINES = [line for file in files(written.DIRECTORY) for lines in sections(file).values() for line in lines]
WORDINGS = [wording for line in LINES for _, wording in written.parse(line)]


def test_every_line_parses_and_fills() -> None:
    for line in LINES:
        texts = fill(random.Random(1), [wording for _, wording in written.parse(line)])
        for text in texts:
            assert text == " ".join(text.split()), line
            assert not set(text) & set("{}|"), line


def test_no_wording_stands_twice() -> None:
    assert [wording for wording, count in Counter(map(str.lower, WORDINGS)).items() if count > 1] == []


@pytest.mark.parametrize("line", ["", "Acme wins", "+", "* Acme wins", "+ up | + gains", "+ a | - b | 0 c", "+ a | b"])
def test_a_malformed_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"give one wording|begin each wording"):
        written.parse(line)


def test_a_pair_gets_the_same_names() -> None:
    pair = written._filled(random.Random(1), written.parse("+ {n} wins {m} from {r} | - {r} wins {m} from {n}"))
    (good, won), (bad, lost) = pair
    assert (good, bad) == (1, -1)
    assert sorted(won.split()) == sorted(lost.split())


def test_what_is_kept_aside_is_never_drawn() -> None:
    for posts in (False, True):
        drawn = {entry for kind in written.entries(posts=posts).values() for entry in kind}
        aside = {entry for kind in written.entries(posts=posts, kept_aside=True).values() for entry in kind}
        assert not drawn & aside
        assert len(aside) < 0.1 * len(drawn)
    assert len(written.never_drawn()) > 100


def could_write(wordings: list[str], texts: list[str]) -> int:
    """Return how many of the wordings are, but for what fills their slots, one of the texts."""
    page = "\n".join(" ".join(text.lower().rstrip(".").split()) for text in texts)
    count = 0
    for wording in wordings:
        literals = re.split(r"\{\w+\}", wording.lower().rstrip("."))
        if max(literals, key=len) in page:
            pattern = r"\S+(?: \S+){0,3}".join(map(re.escape, literals))
            count += bool(re.search(f"^{pattern}$", page, re.MULTILINE))
    return count


def test_a_wording_that_could_write_a_text_is_counted() -> None:
    texts = ["Acme & Sons to cut 400 jobs.", "Oil falls"]
    assert could_write(["{n} to cut {k} jobs", "oil falls", "{n} to cut jobs", "{n} cuts {k} jobs"], texts) == 2


@pytest.mark.parametrize("half", ["dev", "unseen"])
def test_no_wording_could_write_a_case_of_the_suite(half: str) -> None:
    # pytest shows the arguments of a call that it asserts on, and no failure may show what is in the unseen half.
    count = could_write(WORDINGS, [case.text for case in read_suite(SUITE / half)])
    assert count == 0


def test_no_wording_gets_two_labels() -> None:
    """The names are alike, so that "{n} undercuts {r}" and "{r} undercuts {n}" are one wording."""
    labels: dict[str, set[int]] = {}
    for line in LINES:
        for sign, wording in written.parse(line):
            labels.setdefault(re.sub(r"\{[nr]\}", "{}", wording.lower()), set()).add(sign)
    assert [wording for wording, signs in labels.items() if len(signs) > 1] == []
