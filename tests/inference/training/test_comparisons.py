from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.model.checkpoint import load
from earlybell.inference.training.commands import app
from earlybell.inference.training.comparisons import at_equal_depth, compare, exit_curves, prediction, rank_correlation
from earlybell.inference.training.data import LABELS, Example
from earlybell.inference.training.plots import plot_comparison

numbers = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=40)


@given(pairs=numbers)
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert rank_correlation(x, y) == 0.0
    else:
        assert rank_correlation(x, y) == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-9)


def test_a_perfect_prediction_beats_its_controls() -> None:
    actual = np.random.default_rng(0).integers(0, 7, 500)
    lengths = np.random.default_rng(1).normal(size=500)
    figures = prediction(actual.astype(np.float64), actual, lengths)
    assert figures["rank_correlation"] == pytest.approx(1.0)
    assert abs(figures["rank_correlation_of_length"]) < 0.15
    assert abs(figures["rank_correlation_at_random"]) < 0.15
    assert figures["mean_absolute_error"] == 0.0
    assert figures["mean_absolute_error_of_a_constant"] > 1.0


def test_every_curve_ends_at_full_depth_with_the_same_accuracy() -> None:
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
    examples = [Example(text, LABELS[index % 3], "test") for index, text in enumerate(texts)]
    figures = compare(load(tiny_checkpoint), examples, unlabelled=texts[:20], precision="float32")
    assert figures["n"] == len(texts)
    assert len(figures["accuracy_per_exit"]) == 5
    first = figures["pruning"][0]
    assert (first["speed_up"], first["alpha"], first["accuracy"]) == (1.0, 1.0, figures["accuracy_per_exit"][-1])
    assert [point["speed_up"] for point in figures["pruning"]][:2] == [1.0, 1.5]
    assert [point["layer"] for point in figures["pruning_by_layer"]] == [1, 2, 3, 4]
    assert figures["pure_prediction"]["mean_depth"] <= 4
    assert figures["pure_prediction"]["mean_depth"] <= figures["pure_prediction_upper"]["mean_depth"] <= 4
    assert figures["prediction"]["n"] == len(texts) + 20
    assert figures["prediction"]["dial"] == 0.5
    for name in ("plot.png", "plot.svg"):
        plot_comparison(figures, tmp_path / name, "test")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "plot.svg").read_text()
    assert all(f"<!-- {word} -->" in svg for word in ("CWB", "patience (PABEE)", "K 1.5", "0.75 points lost"))


def test_pruning_can_be_skipped_or_cut_short_and_the_dial_chosen(tiny_checkpoint: Path, texts: list[str]) -> None:
    examples = [Example(text, LABELS[index % 3], "test") for index, text in enumerate(texts)]
    without = compare(load(tiny_checkpoint), examples, prune_texts=-1, dial=0.0, precision="float32")
    assert "pruning" not in without
    assert without["prediction"]["rank_correlation"] == 0.0, "at dial 0 all texts run to full depth"
    assert without["pure_prediction"]["checked_mean_depth"] == 4
    few = compare(load(tiny_checkpoint), examples, prune_texts=30, layer_texts=8, precision="float32")
    assert few["pruning_n"] == 30
    assert all(
        round(8 * point["accuracy"]) == pytest.approx(8 * point["accuracy"]) for point in few["pruning_by_layer"]
    )


def test_a_text_of_one_token_is_predicted_by_that_token(tiny_checkpoint: Path) -> None:
    checkpoint = load(tiny_checkpoint)
    table = checkpoint.calibration.token_table
    assert table is not None
    token = int(checkpoint.reader.read(["acme"])[0][1])
    expected = float(table[token] @ np.arange(5.0))
    figures = compare(checkpoint, [Example("acme", "positive", "test")] * 3, prune_texts=-1, precision="float32")
    assert figures["pure_prediction"]["mean_depth"] == round(expected)


def test_the_command_compares_and_plots(tiny_checkpoint: Path, texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "labelled.csv"
    file.write_text("sentence,mood\n" + "".join(f"{text},{index % 3}\n" for index, text in enumerate(texts)))
    plot = tmp_path / "compared.png"
    arguments = ["compare", str(file), "--checkpoint", str(tiny_checkpoint), "--text-column", "sentence",
                 "--label-column", "mood", "--texts", "40", "--prune-texts", "20", "--speed-up", "2",
                 "--plot", str(plot)]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["n"], figures["pruning_n"]) == (40, 20)
    assert [point["speed_up"] for point in figures["pruning"]] == [1.0, 2.0]
    assert set(figures["exit_curves"]) == {"cwb", "entropy", "pabee", "fixed"}
    assert plot.read_bytes().startswith(b"\x89PNG")
