from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.inference.training.company_news import announcements
from earlybell.inference.training.data import LABELS, text_key
from earlybell.inference.training.optimise import all_logits

BY_HAND = Path(__file__).with_name("company_news.jsonl")


def by_hand() -> list[dict[str, str]]:
    return [json.loads(line) for line in BY_HAND.read_text(encoding="utf-8").splitlines()]


def test_announcements_are_many_balanced_and_the_same_by_seed() -> None:
    made = announcements(3000, 1)
    assert Counter(one.label for one in made) == dict.fromkeys(LABELS, 1000)
    assert len({one.text for one in made}) > 2400
    assert announcements(3000, 1) == made
    assert announcements(3000, 2) != made
    assert all("{" not in one.text and one.text[0].isupper() for one in made)


def test_none_of_what_they_are_judged_on_is_among_them() -> None:
    made = {text_key(one.text) for one in announcements(20_000, 1) + announcements(20_000, 2)}
    assert not made & {text_key(row["text"]) for row in by_hand()}


def test_the_shipped_model_reads_formal_news() -> None:
    """It called more than half of the good and bad news neutral before it had read such sentences (.56)."""
    checkpoint = load(SHIPPED)
    rows = by_hand()
    truth = np.array([LABELS.index(row["label"]) for row in rows])
    answers = all_logits(checkpoint.model, checkpoint.reader.read([row["text"] for row in rows]))[:, -1].argmax(-1)
    assert np.mean(answers == truth) >= 0.75
