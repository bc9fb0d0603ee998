from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.model.checkpoint import load
from earlybell.inference.training.commands import app
from earlybell.inference.training.comparisons import at_equal_depth, compare, exit_curves, prediction, rank_correlation
from earlybell.inference.training.data import LABELS, Example
from earlybell.inference.training.plots import draw_comparison

numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40)


@given(pairs=numbers)
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert rank_correlation(one, other) == 0.0
    else:
        assert rank_correlation(one, other) == pytest.approx(float(stats.spearmanr(one, other).statistic), abs=1e-9)


def test_a_perfect_prediction_beats_its_controls() -> None:
    actual = np.random.default_rng(0).integers(0, 7, 500)
    lengths = np.random.default_rng(1).normal(size=500)
    found = prediction(actual.astype(np.float64), actual, lengths)
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert abs(found["rank_correlation_of_length"]) < 0.15
    assert abs(found["rank_correlation_at_random"]) < 0.15
    assert found["mean_absolute_error"] == 0.0
    assert found["mean_absolute_error_of_a_constant"] > 1.0


def test_every_curve_ends_at_full_depth_and_says_the_same_there() -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(300, 6, 3)).cumsum(1).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = probabilities[:, -1].argmax(-1)
    curves = exit_curves(probabilities, truth, 1, ExitRule(0.5, "agreement", 3, 0.2))
    assert {name: curve[-1] for name, curve in curves.items() if name != "pabee"} == dict.fromkeys(
        ("cwb", "entropy", "fixed"), (6.0, 1.0)
    )
    equal = at_equal_depth(curves, 6)
    assert equal["fixed"]["50%"] == pytest.approx(curves["fixed"][2][1], abs=1e-4)
    assert all(0 <= value <= 1 for curve in equal.values() for value in curve.values())


def test_a_checkpoint_is_compared_on_a_labelled_set(tiny_checkpoint: Path, texts: list[str], tmp_path: Path) -> None:
    examples = [Example(text, LABELS[place % 3], "made") for place, text in enumerate(texts)]
    found = compare(load(tiny_checkpoint), examples, further=texts[:20], precision="float32")
    assert found["n"] == len(texts)
    assert len(found["accuracy_per_exit"]) == 5
    first = found["pruning"][0]
    assert (first["speed_up"], first["alpha"], first["accuracy"]) == (1.0, 1.0, found["accuracy_per_exit"][-1])
    assert [one["speed_up"] for one in found["pruning"]][:2] == [1.0, 1.5]
    assert [one["layer"] for one in found["pruning_by_layer"]] == [1, 2, 3, 4]
    assert found["pure_prediction"]["mean_depth"] <= 4
    assert found["pure_prediction"]["mean_depth"] <= found["pure_prediction_upper"]["mean_depth"] <= 4
    assert found["prediction"]["n"] == len(texts) + 20
    assert found["prediction"]["dial"] == 0.5
    for name in ("drawn.png", "drawn.svg"):
        draw_comparison(found, tmp_path / name, "made")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "drawn.svg").read_text()
    assert all(f"<!-- {word} -->" in drawn for word in ("CWB", "patience (PABEE)", "K 1.5", "0.75 points lost"))


def test_pruning_can_be_left_out_or_cut_and_another_dial_asked(tiny_checkpoint: Path, texts: list[str]) -> None:
    examples = [Example(text, LABELS[place % 3], "made") for place, text in enumerate(texts)]
    without = compare(load(tiny_checkpoint), examples, prune_texts=-1, dial=0.0, precision="float32")
    assert "pruning" not in without
    assert without["prediction"]["rank_correlation"] == 0.0, "at dial 0 all texts go to the end"
    assert without["pure_prediction"]["checked_mean_depth"] == 4
    few = compare(load(tiny_checkpoint), examples, prune_texts=30, layer_texts=8, precision="float32")
    assert few["pruning_n"] == 30
    assert all(round(8 * one["accuracy"]) == pytest.approx(8 * one["accuracy"]) for one in few["pruning_by_layer"])


def test_a_text_that_is_one_token_is_predicted_as_its_token_says(tiny_checkpoint: Path) -> None:
    checkpoint = load(tiny_checkpoint)
    table = checkpoint.calibration.token_table
    assert table is not None
    token = int(checkpoint.reader.read(["acme"])[0][1])
    expected = float(table[token].double() @ torch.arange(5.0).double())
    found = compare(checkpoint, [Example("acme", "positive", "made")] * 3, prune_texts=-1, precision="float32")
    assert found["pure_prediction"]["mean_depth"] == round(expected)


def test_the_command_compares_and_draws(tiny_checkpoint: Path, texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "labelled.csv"
    file.write_text("sentence,mood\n" + "".join(f"{text},{place % 3}\n" for place, text in enumerate(texts)))
    drawing = tmp_path / "compared.png"
    arguments = ["compare", str(file), "--checkpoint", str(tiny_checkpoint), "--text-column", "sentence",
                 "--label-column", "mood", "--texts", "40", "--prune-texts", "20", "--speed-up", "2",
                 "--plot", str(drawing)]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["n"], found["pruning_n"]) == (40, 20)
    assert [one["speed_up"] for one in found["pruning"]] == [1.0, 2.0]
    assert set(found["exit_curves"]) == {"cwb", "entropy", "pabee", "fixed"}
    assert drawing.read_bytes().startswith(b"\x89PNG")
