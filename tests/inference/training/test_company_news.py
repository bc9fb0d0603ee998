from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np

from earlybell.inference.model.checkpoint import SHIPPED, load
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training.company_news import announcements
from earlybell.inference.training.data import LABELS, text_key
from earlybell.inference.training.optimise import all_logits

HANDWRITTEN = Path(__file__).with_name("company_news.jsonl")


def handwritten() -> list[dict[str, str]]:
    return [json.loads(line) for line in HANDWRITTEN.read_text(encoding="utf-8").splitlines()]


def test_announcements_are_varied_balanced_and_deterministic() -> None:
    examples = announcements(3000, 1)
    assert Counter(example.label for example in examples) == dict.fromkeys(LABELS, 1000)
    assert len({example.text for example in examples}) > 2400
    assert announcements(3000, 1) == examples
    assert announcements(3000, 2) != examples
    assert all("{" not in example.text and example.text[0].isupper() for example in examples)


def test_no_handwritten_sentence_is_generated() -> None:
    generated = {text_key(example.text) for example in announcements(20_000, 1) + announcements(20_000, 2)}
    assert not generated & {text_key(row["text"]) for row in handwritten()}


def test_the_shipped_model_reads_formal_news() -> None:
    """Before it was trained on such sentences its accuracy was .56: it called most of them neutral."""
    checkpoint = load(SHIPPED)
    model = ElbertForSequenceClassification.of(checkpoint.config, checkpoint.weights)
    rows = handwritten()
    truth = np.array([LABELS.index(row["label"]) for row in rows])
    answers = all_logits(model, checkpoint.reader.read([row["text"] for row in rows]))[:, -1].argmax(-1)
    assert np.mean(answers == truth) >= 0.75
