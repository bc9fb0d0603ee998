from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.tempering import tempered
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration, OperatingPoint
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.calibrate import (
    Budget,
    best_family,
    calibrate,
    calibrate_model,
    count_tokens,
    default_point,
    fit_temperature,
    fit_tempering,
    judged_sources,
)
from earlybell.inference.training.data import LABELS, Example
from earlybell.inference.training.measures import expected_calibration_error
from earlybell.inference.training.optimise import all_logits

BUDGET = Budget(name="tiny", precision="float32", max_tokens=128)


def sharpened(seed: int, scale: float, texts: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return logits ``scale`` times those that the labels were drawn from, and the labels."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(texts, 3)) * 1.5
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (weights.cumsum(1) > generator.random((texts, 1))).argmax(1)
    return (logits * scale).astype(np.float32), truth.astype(np.int64)


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_the_fitted_temperature_undoes_the_scale(scale: float) -> None:
    logits, truth = sharpened(1, scale)
    assert fit_temperature(logits, truth) == pytest.approx(scale, rel=0.1)
    temperature, sharpening = fit_tempering(logits, truth)
    assert temperature == pytest.approx(scale, rel=0.2)
    assert sharpening < 0.1, "there is nothing to sharpen"


def test_the_fitted_sharpening_undoes_a_softening() -> None:
    """Logits whose leads were compressed, as softened labels do: no temperature alone undoes that."""
    logits, truth = sharpened(1, 1.0, texts=20_000)
    top, second = np.sort(logits, 1)[:, :0:-1].T
    lead = (top - second)[:, None]
    softened = logits / (1 + 0.5 * lead)
    temperature, sharpening = fit_tempering(softened, truth)

    def error(tempering: tuple[float, float]) -> float:
        answers = tempered(softened, np.array(tempering, np.float32))
        return expected_calibration_error(answers.astype(np.float64), truth)

    assert sharpening > 0.1
    assert error((temperature, sharpening)) < 0.5 * error((fit_temperature(softened, truth), 0.0))


def test_leads_that_are_too_large_are_not_sharpened_below_nothing() -> None:
    logits, truth = sharpened(1, 1.0)
    top, second = np.sort(logits, 1)[:, :0:-1].T
    assert fit_tempering(logits * (1 + (top - second)[:, None]), truth)[1] == 0.0


def test_a_window_is_chosen_where_it_helps() -> None:
    """Exits that are confident and wrong until they settle fool entropy alone, but not agreement."""
    generator = np.random.default_rng(0)
    texts, exits = 2000, 8
    truth = generator.integers(0, 3, texts)
    answers = generator.integers(0, 3, (texts, exits))
    settled = np.arange(exits) >= generator.integers(0, 5, texts)[:, None]
    answers = np.where(settled, truth[:, None], answers)
    confident = np.where(np.eye(3)[answers] == 1, 0.9, 0.05).astype(np.float32)
    assert best_family(confident, truth, first=1).window_rule == "agreement"


def test_the_default_uses_its_whole_budget() -> None:
    def setting(cost: float, lost: float) -> OperatingPoint:
        return OperatingPoint(math.nan, ExitRule(cost), Pruning(), 0.9, lost, 6 * cost, cost)

    settings = [setting(0.9, 0.0), setting(0.5, 0.004), setting(0.4, 0.006), setting(0.3, 0.005)]
    point = default_point(settings, 0.005, min_cost=0.2)
    assert point is not None
    assert (point.cost, point.dial) == (0.5, 0.62), "0.3 is luck: the slower 0.4 loses more"
    assert default_point([setting(0.9, 0.01)], 0.005, min_cost=0.2) is None


def test_each_source_with_enough_texts_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("earlybell.inference.training.calibrate.MIN_SOURCE_TEXTS", 3)
    sources = judged_sources(["b", "a", "a", "b", "b", "c", "a"])
    assert [texts.tolist() for texts in sources] == [[1, 2, 6], [0, 3, 4]], "c has too few texts"


def test_the_token_table_by_hand() -> None:
    rows = [np.array(row, np.int32) for row in ([2, 5, 6, 3], [2, 5, 5, 3], [2, 7, 3], [2, 3])]
    table = count_tokens(rows, np.array([0, 1, 1, 2]), vocabulary=8, count=3, smoothing=1.0)
    prior = np.array([0.25, 0.5, 0.25])
    assert np.allclose(table[5], (np.array([1.0, 1.0, 0.0]) + prior) / 3)
    assert np.allclose(table[6], (np.array([1.0, 0.0, 0.0]) + prior) / 2)
    assert np.allclose(table[1], prior), "an unseen token gets the prior"
    assert np.allclose(table[2], prior), "special tokens are not counted"
    assert np.allclose(table.sum(1), 1.0)


def labelled_by(model: ElbertForSequenceClassification, reader: Reader, texts: list[str]) -> list[Example]:
    """Return examples of which full depth gets three in four right."""
    from earlybell.inference.training.optimise import all_logits

    answers = all_logits(model, reader.read(texts), precision="float32")[:, -1].argmax(-1)
    return [
        Example(text, LABELS[int(answer) if index % 4 else (int(answer) + 1) % 3], "made")
        for index, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]


def test_a_calibration_stays_within_its_budget(
    tiny_model: ElbertForSequenceClassification, tokenizer_file: Path, texts: list[str]
) -> None:
    reader = Reader.open(tokenizer_file, 128)
    dev = labelled_by(tiny_model, reader, texts)
    calibration, record = calibrate_model(tiny_model, reader, dev, texts, BUDGET)
    assert calibration.curve[0].rule == ExitRule()
    steps = {round(step / 20, 2) for step in range(21)}
    assert {point.dial for point in calibration.curve} == steps | {calibration.default_dial}
    assert all(point.accuracy_lost <= 0.03 for point in calibration.curve)
    costs = [point.cost for point in calibration.curve]
    max_costs = [1.0 - point.dial * (1.0 - min(costs)) for point in calibration.curve]
    assert all(cost <= limit + 1e-6 for cost, limit in zip(costs, max_costs, strict=True))
    assert calibration.point(calibration.default_dial).accuracy_lost <= 0.005
    slower = [point for point in calibration.curve if point.dial <= calibration.default_dial]
    assert all(point.accuracy_lost <= 0.005 for point in slower)
    assert record["full_depth_accuracy"] == pytest.approx(1 - math.ceil(len(dev) / 4) / len(dev), abs=1e-3)
    assert calibration.token_table is not None
    assert calibration.token_table.shape == (64, 5)


def test_without_windows_texts_exit_by_entropy_alone(
    tiny_model: ElbertForSequenceClassification,
    tokenizer_file: Path,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "earlybell.inference.training.calibrate.best_family", lambda *_: ExitRule(0.0, "agreement", 4, 0.95)
    )
    reader = Reader.open(tokenizer_file, 128)
    dev = labelled_by(tiny_model, reader, texts)

    def rules(windows: bool) -> set[str]:
        calibration, _ = calibrate_model(tiny_model, reader, dev, [], replace(BUDGET, windows=windows))
        return {point.rule.window_rule for point in calibration.curve[1:]}

    assert rules(windows=True) == {"agreement"}
    assert rules(windows=False) == {"off"}


def test_behavioural_cases_that_early_exits_get_wrong_slow_the_default_down(
    tiny_model: ElbertForSequenceClassification,
    tokenizer_file: Path,
    texts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("earlybell.inference.training.calibrate.MAX_LOSS", 1.0)  # random weights lose much early
    generous = replace(BUDGET, max_loss=0.9)
    reader = Reader.open(tokenizer_file, 128)
    dev = labelled_by(tiny_model, reader, texts)
    answers = all_logits(tiny_model, reader.read(texts), precision="float32").argmax(-1)
    late = [
        Example(text, LABELS[row[-1]], "behaviour")
        for text, row in zip(texts, answers, strict=True)
        if row[0] != row[-1]
    ]
    assert late
    alone, _ = calibrate_model(tiny_model, reader, dev, [], generous)
    beside, _ = calibrate_model(tiny_model, reader, dev, [], generous, late)
    assert beside.point(beside.default_dial).mean_depth > alone.point(alone.default_dial).mean_depth
    assert (beside.temperatures, beside.sharpening) == (alone.temperatures, alone.sharpening)
    assert beside.curve[0] == alone.curve[0]


def test_calibrate_seals_a_checkpoint_whose_revision_depends_on_the_dev_set(
    tiny_model: ElbertForSequenceClassification,
    tiny_calibration: Calibration,
    tokenizer_file: Path,
    tmp_path: Path,
    texts: list[str],
) -> None:
    tiny_model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    dev = labelled_by(tiny_model, Reader.open(tokenizer_file, 128), texts)
    revision, _ = calibrate(tmp_path, dev, texts, BUDGET)
    assert checkpoint.load(tmp_path).revision == revision
    assert calibrate(tmp_path, dev, texts, BUDGET)[0] == revision
    assert calibrate(tmp_path, dev[:40], texts, BUDGET)[0] != revision
