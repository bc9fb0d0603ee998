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
    rows = [{"text": text, "label": LABELS[place % 3]} for place, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_figures_fit_together(tiny_checkpoint: Path, labelled: Path, texts: list[str]) -> None:
    examples = LabelledFile(path=labelled).read(LABELS)
    found = evaluate(examples, checkpoint=tiny_checkpoint, dial=1.0, precision="float32", window_texts=50)
    table = found["confusion"]
    assert found["n"] == len(texts) == sum(map(sum, table)) == sum(found["depths"].values())
    assert found["accuracy"] == pytest.approx(sum(table[one][one] for one in range(3)) / len(texts), abs=1e-5)
    mean = sum(int(depth) * count for depth, count in found["depths"].items()) / len(texts)
    assert found["mean_depth"] == pytest.approx(mean, abs=1e-4)
    assert 0 < found["tokens_kept"] < 1
    assert 0 <= found["ece"] <= 1
    assert found["texts_per_second"] > 0


def test_the_curve_has_every_setting(tiny_checkpoint: Path, labelled: Path) -> None:
    curve = evaluate_curve(LabelledFile(path=labelled).read(LABELS), checkpoint=tiny_checkpoint, precision="float32")
    assert [one["dial"] for one in curve] == [0.0, 0.5, 0.75, 1.0]
    assert curve[0]["mean_depth"] == 4


def test_the_command_prints_one_json_object_and_draws(tiny_checkpoint: Path, labelled: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "curve.png"
    done = CliRunner().invoke(
        app, ["evaluate", str(labelled), "--checkpoint", str(tiny_checkpoint), "--json", "--plot", str(drawing)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    wanted = ("accuracy", "macro_f1", "ece", "mean_depth", "depths", "tokens_kept", "n", "texts_per_second",
              "confusion", "model_revision")  # fmt: skip
    assert set(wanted) <= set(found)
    assert len(found["curve"]) == 4
    assert drawing.read_bytes().startswith(b"\x89PNG")


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
    stands_for = {"DATA": str(labelled), "CHECKPOINT": str(tiny_checkpoint)}
    given = [stands_for.get(one, one) for one in arguments]
    if given[0] == "evaluate" and "--checkpoint" not in given:
        given += ["--checkpoint", str(tiny_checkpoint)]
    assert execute(given) == 2
    said = capfd.readouterr().err
    assert said.startswith("earlybell: ")
    assert len(said.strip().splitlines()) == 1
