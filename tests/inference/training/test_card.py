from __future__ import annotations

import json
from pathlib import Path

import pytest

from earlybell.inference.model.checkpoint import CheckpointError
from earlybell.inference.training.card import write_card
from earlybell.inference.training.data import Corpus, Example

CASES = [
    {"text": "acme wins", "label": "positive", "kind": "pair", "group": "one"},
    {"text": "acme loses", "label": "negative", "kind": "pair", "group": "one"},
    {"text": "acme to report", "label": "neutral", "kind": "case"},
]


@pytest.fixture
def corpus(texts: list[str]) -> Corpus:
    examples = tuple(Example(text, "positive", "made") for text in texts)
    return Corpus(examples, examples, {"tfns_validation": examples}, {})


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    directory = tmp_path / "unseen"
    directory.mkdir()
    (directory / "bad_thing_falls.jsonl").write_text("\n".join(map(json.dumps, CASES)) + "\n", encoding="utf-8")
    return directory


def test_the_card_reports_the_sets_and_the_suite_by_capability(
    tiny_checkpoint: Path, corpus: Corpus, suite: Path
) -> None:
    record = tiny_checkpoint / "calibration-record.json"
    record.write_text(json.dumps({"window": {"rule": "off"}, "ece_after": [0.01]}), encoding="utf-8")
    card = write_card(tiny_checkpoint, corpus, "Taught by examples.", [suite])
    assert (tiny_checkpoint / "README.md").read_text(encoding="utf-8") == card
    figures = json.loads(record.read_text(encoding="utf-8"))["judgement"]["unseen"]["bad_thing_falls"]
    assert figures["n"] == 3
    row = (
        f"| bad thing falls | 3 | {figures['accuracy']:.3f} | {figures['opposite']:.3f} | {figures['pairs_right']} of 1"
    )
    assert row in card
    assert "Taught by examples." in card
    assert "MB in half precision" in card
    assert not any(case["text"] in card for case in CASES), "a case's text is never part of its figures"


def test_without_a_suite_the_card_has_no_such_section(tiny_checkpoint: Path, corpus: Corpus) -> None:
    record = tiny_checkpoint / "calibration-record.json"
    record.write_text(json.dumps({"window": {"rule": "trend", "window": 3}, "ece_after": [0.01]}), encoding="utf-8")
    card = write_card(tiny_checkpoint, corpus, "Taught by examples.")
    assert "## Judgement" not in card
    assert "trend over 3 depths" in card


def test_an_uncalibrated_model_gets_no_card(tiny_checkpoint: Path, corpus: Corpus) -> None:
    with pytest.raises(CheckpointError, match="run `earlybell calibrate` first"):
        write_card(tiny_checkpoint, corpus, "Taught by examples.")
