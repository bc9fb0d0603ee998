"""The shipped checkpoint: complete, small enough, and as good as its model card says."""

from __future__ import annotations

import json

import pytest

from earlybell.inference.engine import open_engine
from earlybell.inference.kernels import library
from earlybell.inference.model.checkpoint import SHIPPED, describe, load, verify
from earlybell.inference.training.data import DataError, data_directory, read_corpus
from earlybell.inference.training.evaluate import evaluate

RECORD = json.loads((SHIPPED / "calibration-record.json").read_text(encoding="utf-8"))


def test_it_is_complete_and_within_its_size() -> None:
    assert len(verify(SHIPPED)) == 16
    assert (SHIPPED / "int8.safetensors").stat().st_size <= 32_000_000
    described = describe(SHIPPED)
    assert described["name"] == "elbert-small"
    assert described["predicts_depth"]
    assert {"README.md", "training.json"} <= {file.name for file in SHIPPED.iterdir()}


def test_the_default_dial_is_the_fastest_within_half_a_point() -> None:
    calibration = load(SHIPPED).calibration
    default = calibration.point(calibration.default_dial)
    assert default.accuracy_lost <= 0.005
    assert default.mean_depth <= 0.4 * load(SHIPPED).config.layers


def test_every_exit_is_calibrated() -> None:
    assert max(RECORD["ece_after"]) <= 0.03


def test_it_labels_plain_news_as_people_do() -> None:
    engine = open_engine("cpu")
    predictions = engine.score(
        [
            "Acme profit soars to a record, raises its outlook",
            "Borealis shares plunge after it cuts its dividend and warns of losses",
            "Cedar Corp to hold its annual meeting on May 4",
        ]
    )
    labels = [engine.description.labels[index] for index in predictions.probabilities.argmax(1)]
    assert labels == ["positive", "negative", "neutral"]


@pytest.mark.skipif(library.load() is None, reason="no kernels here")
@pytest.mark.parametrize("dial", ["full", "default"])
def test_tfns_validation_matches_the_card(dial: str) -> None:
    try:
        corpus = read_corpus(data_directory())
    except DataError as error:
        pytest.skip(str(error))
    rows = [row for row in RECORD["reported"]["tfns_validation"] if row["precision"] == "int8"]
    card = rows[0 if dial == "full" else 1]
    report = evaluate(corpus.report["tfns_validation"], dial=card["dial"], precision="int8")
    assert report["model_revision"] == card["model_revision"]
    assert report["accuracy"] == pytest.approx(card["accuracy"], abs=1e-6)
    assert report["mean_depth"] == pytest.approx(card["mean_depth"], abs=1e-6)
    assert report["accuracy"] >= 0.88
