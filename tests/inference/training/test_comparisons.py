from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from earlybell.inference.early_exit.depth_prediction import DepthPrediction
from earlybell.inference.model.checkpoint import load
from earlybell.inference.training.commands import app
from earlybell.inference.training.comparisons import compare
from earlybell.inference.training.data import LABELS, Example
from earlybell.inference.training.plots import plot_comparison


def test_a_checkpoint_is_compared_on_a_labelled_set(tiny_checkpoint: Path, texts: list[str], tmp_path: Path) -> None:
    examples = [Example(text, LABELS[index % 3], "test") for index, text in enumerate(texts)]
    figures = compare(load(tiny_checkpoint), examples, unlabelled=texts[:20], precision="float32")
    assert figures["n"] == len(texts)
    assert len(figures["accuracy_per_exit"]) == 5
    first = figures["pruning"][0]
    assert (first["speed_up"], first["alpha"], first["accuracy"]) == (1.0, 1.0, figures["accuracy_per_exit"][-1])
    assert [point["speed_up"] for point in figures["pruning"]][:2] == [1.0, 1.5]
    assert [point["layer"] for point in figures["pruning_by_layer"]] == [1, 2, 3, 4]
    pure = figures["pure_prediction"]
    assert 0 < pure["mean"]["mean_depth"] <= pure["upper_quantile"]["mean_depth"] <= 4
    assert 0 <= pure["naive_bayes"]["mean_depth"] <= 4
    assert figures["prediction"]["n"] == len(texts) + 20
    assert figures["prediction"]["dial"] == 0.5
    assert set(figures["exit_curves"]) == {"cwb", "entropy", "pabee", "fixed"}
    for name in ("plot.png", "plot.svg"):
        plot_comparison(figures, tmp_path / name, "test")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "plot.svg").read_text()
    assert all(f"<!-- {word} -->" in svg for word in ("CWB", "patience (PABEE)", "K 1.5", "0.75 points lost"))


def test_with_dev_texts_every_rule_of_the_window_is_compared(tiny_checkpoint: Path, texts: list[str]) -> None:
    examples = [Example(text, LABELS[index % 3], "test") for index, text in enumerate(texts)]
    options = {"prune_texts": -1, "precision": "float32"}
    figures = compare(load(tiny_checkpoint), examples[:60], dev=examples[60:], **options)  # type: ignore[arg-type]
    rules = {"agreement", "trend", "agreement_with_a_range", "trend_with_a_margin"}
    assert set(figures["exit_curves"]) == {"cwb", "entropy", "pabee", "fixed"} | {f"cwb_{rule}" for rule in rules}
    full_depth = (4.0, figures["exit_curves"]["fixed"][-1][1])
    assert all(curve[-1] == full_depth for name, curve in figures["exit_curves"].items() if name != "pabee")


def test_pruning_can_be_skipped_or_cut_short_and_the_dial_chosen(tiny_checkpoint: Path, texts: list[str]) -> None:
    examples = [Example(text, LABELS[index % 3], "test") for index, text in enumerate(texts)]
    without = compare(load(tiny_checkpoint), examples, prune_texts=-1, dial=0.0, precision="float32")
    assert "pruning" not in without
    correlations = without["prediction"]["rank_correlation"]
    assert set(correlations.values()) == {0.0}, "at dial 0 all texts run to full depth"
    assert without["pure_prediction"]["checked"]["mean_depth"] == 4
    few = compare(load(tiny_checkpoint), examples, prune_texts=30, layer_texts=8, precision="float32")
    assert few["pruning_n"] == 30
    assert all(
        round(8 * point["accuracy"]) == pytest.approx(8 * point["accuracy"]) for point in few["pruning_by_layer"]
    )


def test_a_text_of_one_token_is_predicted_by_that_token(tiny_checkpoint: Path) -> None:
    checkpoint = load(tiny_checkpoint)
    table = checkpoint.calibration.token_table
    assert table is not None
    rows = checkpoint.reader.read(["acme"])
    mean = float((table[rows[0][1]] * range(5)).sum())
    median = float(DepthPrediction.of(table, checkpoint.reader.pad_id, 0).predict(rows)[0])
    figures = compare(checkpoint, [Example("acme", "positive", "test")] * 3, prune_texts=-1, precision="float32")
    assert figures["pure_prediction"]["mean"]["mean_depth"] == round(mean)
    assert figures["pure_prediction"]["naive_bayes"]["mean_depth"] == round(median)


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
