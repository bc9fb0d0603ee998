"""Predictions as people use them: labels, scores, records, a printed form and frames."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from earlybell.inference.predictions import Prediction, Predictions


def predictions(rows: int = 2) -> Predictions:
    probabilities = np.array([[0.1, 0.2, 0.7], [0.8, 0.15, 0.05]] * rows, np.float32)[:rows]
    return Predictions(
        probabilities,
        np.arange(rows, dtype=np.int16),
        np.full(rows, np.nan, np.float32),
        np.full(rows, 5, np.int32),
        np.full(rows, 4, np.int32),
        np.ones(rows, np.float32),
    )


def test_labels_scores_and_records_agree() -> None:
    answers = predictions()
    assert answers.labels == ["positive", "negative"]
    assert answers.scores == pytest.approx([0.6, -0.75])
    records = list(answers)
    assert [record.label for record in records] == answers.labels
    second = records[1]
    assert isinstance(second, Prediction)
    assert (second.label, second.exit_depth, second.tokens, second.tokens_kept) == ("negative", 1, 5, 4)
    assert (second.predicted_depth, second.known) == (None, 1.0)
    assert [second.score, second.confidence] == pytest.approx([-0.75, 0.8])
    assert records[0].probabilities == pytest.approx({"negative": 0.1, "neutral": 0.2, "positive": 0.7})
    assert answers[0] == records[0]
    assert answers[-1] == records[-1]
    with pytest.raises(IndexError):
        answers[2]


def test_no_probability_exceeds_one() -> None:
    answers = predictions()
    answers.probabilities[0] = [0.0, -1e-9, 1.0000001]
    assert answers[0].confidence == answers[0].score == 1.0
    assert min(answers[0].probabilities.values()) == 0.0


def test_probabilities_of_other_classes_than_are_named_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) for 2 texts and 2 classes"):
        replace(predictions(), classes=("no", "yes"))


def test_a_model_with_other_classes_has_no_score() -> None:
    answers = predictions()
    other = Predictions(
        answers.probabilities[:, :2], answers.exit_depth, answers.predicted_depth, answers.tokens, answers.tokens_kept,
        answers.known, ("no", "yes"),
    )  # fmt: skip
    assert other.labels == ["yes", "no"]
    assert other.scores.tolist() == [0.0, 0.0] == [record.score for record in other]


def test_the_printed_form_is_a_table_that_stays_short() -> None:
    assert repr(predictions()).splitlines() == [
        "label     score  conf.  depth",
        "positive  +0.60   0.70      0",
        "negative  -0.75   0.80      1",
        "(2 texts)",
    ]
    assert len(repr(predictions(1_000)).splitlines()) == 22
    assert repr(predictions(1_000)).endswith("... (1,000 texts)")
    assert repr(Predictions.concatenate([], ("no", "yes"))) == "(0 texts)"


def test_columns_have_a_row_a_text() -> None:
    columns = predictions(7).columns()
    assert {len(column) for column in columns.values()} == {7}
    assert list(columns) == ["label", "score", "confidence", "negative", "neutral", "positive", "exit_depth", "tokens"]


def test_classes_survive_the_way_to_another_process() -> None:
    parts = [predictions(), predictions()]
    joined = pickle.loads(pickle.dumps(Predictions.concatenate(parts, parts[0].classes)))
    assert joined.classes == ("negative", "neutral", "positive")
    assert joined.labels == parts[0].labels * 2


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library: str) -> None:
    pytest.importorskip(library)
    frame = getattr(predictions(), f"to_{library}")()
    assert list(frame.columns) == list(predictions().columns())
    assert list(frame["label"]) == ["positive", "negative"]
