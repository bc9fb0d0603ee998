from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from earlybell.inference.training.behaviour import read_suite
from earlybell.inference.training.data import LABELS, text_key
from earlybell.inference.training.judgement.figures import Group
from earlybell.inference.training.judgement.grammar import FAMILIES, groups, sentences
from earlybell.inference.training.judgement.lexicon import pairs

DEV = Path(__file__).parents[3] / "behaviour" / "dev"


def test_sentences_are_varied_balanced_and_deterministic() -> None:
    made = sentences(6000, 1)
    assert made == sentences(6000, 1)
    assert made != sentences(6000, 2)
    assert len({example.text for example in made}) == 6000
    counts = Counter(example.label for example in made)
    assert set(counts) == set(LABELS)
    assert abs(counts["positive"] - counts["negative"]) < 400
    assert counts["neutral"] > 600


def test_a_pair_stands_side_by_side_with_different_labels() -> None:
    pairs = [group for group in groups(3000, 3) if len(group) == 2]
    assert len(pairs) > 800
    assert all(len({example.label for example in pair}) == 2 for pair in pairs)
    first = Counter(pair[0].label for pair in pairs)
    assert abs(first["positive"] - first["negative"]) < 0.15 * len(pairs)  # order tells nothing


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_slot_is_filled(family: Callable[[random.Random], Group]) -> None:
    rng = random.Random(5)
    for _ in range(300):
        for sign, text in family(rng):
            assert sign in (1, 0, -1)
            assert not set(text) & set("{}|"), text
            assert text == " ".join(text.split()), text


def test_no_case_of_the_suite_is_generated() -> None:
    cases = {text_key(case.text) for case in read_suite(DEV)}
    assert not cases & {text_key(example.text) for example in sentences(20_000, 1)}


@pytest.mark.parametrize("part", [("events_pairs", ""), ("markets", "rival_pairs"), ("markets", "company_turns")])
def test_the_wordings_of_a_pair_differ_in_more_than_names(part: tuple[str, str]) -> None:
    for good, bad in pairs(*part):
        assert re.sub(r"\{[nr]\}", "{}", good) != re.sub(r"\{[nr]\}", "{}", bad)
