from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from earlybell.inference.training.commands import app
from earlybell.inference.training.evaluate import evaluate, evaluate_curve
from earlybell.inference.training.labelled import LabelledFile
from earlybell.streams.cli import execute

LABELS = ("negative", "neutral", "positive")


@pytest.fixture
def labelled(tmp_path: Path, texts: list[str]) -> Path:
    file = tmp_path / "labelled.jsonl"
    rows = [{"text": text, "label": LABELS[index % 3]} for index, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_figures_are_consistent(tiny_checkpoint: Path, labelled: Path, texts: list[str]) -> None:
    examples = LabelledFile(path=labelled).read(LABELS)
    figures = evaluate(examples, checkpoint=tiny_checkpoint, dial=1.0, precision="float32", window_texts=50)
    table = figures["confusion"]
    assert figures["n"] == len(texts) == sum(map(sum, table)) == sum(figures["depths"].values())
    assert figures["accuracy"] == pytest.approx(sum(table[label][label] for label in range(3)) / len(texts), abs=1e-5)
    mean = sum(int(depth) * count for depth, count in figures["depths"].items()) / len(texts)
    assert figures["mean_depth"] == pytest.approx(mean, abs=1e-4)
    assert 0 < figures["tokens_kept"] < 1
    assert 0 <= figures["ece"] <= 1
    assert figures["texts_per_second"] > 0


def test_the_curve_has_every_setting_of_the_dial(tiny_checkpoint: Path, labelled: Path) -> None:
    curve = evaluate_curve(LabelledFile(path=labelled).read(LABELS), checkpoint=tiny_checkpoint, precision="float32")
    assert [point["dial"] for point in curve] == [0.0, 0.5, 0.75, 1.0]
    assert curve[0]["mean_depth"] == 4


def test_the_command_prints_one_json_object_and_plots(tiny_checkpoint: Path, labelled: Path, tmp_path: Path) -> None:
    plot = tmp_path / "curve.png"
    result = CliRunner().invoke(
        app, ["evaluate", str(labelled), "--checkpoint", str(tiny_checkpoint), "--json", "--plot", str(plot)]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    names = ("accuracy", "macro_f1", "ece", "mean_depth", "depths", "tokens_kept", "n", "texts_per_second",
              "confusion", "model_revision")  # fmt: skip
    assert set(names) <= set(figures)
    assert len(figures["curve"]) == 4
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "nowhere.csv"],
        ["evaluate", "DATA", "--checkpoint", "nowhere"],
        ["evaluate", "DATA", "--dial", "3"],
        ["evaluate", "DATA", "--text-column", "headline"],
        ["evaluate", "DATA", "--device", "tpu"],
        ["evaluate", "corpus:nothing"],
        ["train", "out", "--data", "nowhere"],
        ["train", "out", "--labelled", "nowhere.csv"],
        ["calibrate", "CHECKPOINT", "--labelled", "nowhere.csv"],
        ["compare", "nowhere.csv"],
        ["calibrate", "nowhere", "--data", "nowhere"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tiny_checkpoint: Path,
    labelled: Path,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    placeholders = {"DATA": str(labelled), "CHECKPOINT": str(tiny_checkpoint)}
    command = [placeholders.get(argument, argument) for argument in arguments]
    if command[0] == "evaluate" and "--checkpoint" not in command:
        command += ["--checkpoint", str(tiny_checkpoint)]
    assert execute(command) == 2
    error = capfd.readouterr().err
    assert error.startswith("earlybell: ")
    assert len(error.strip().splitlines()) == 1
