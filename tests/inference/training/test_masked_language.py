"""Continued pre-training: what is hidden follows BERT's rule, the encoder learns, and others can start from it."""

from __future__ import annotations

import json
import lzma
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.training.data import LABELS, DataError, Example, text_key
from earlybell.inference.training.fit import Training, fit
from earlybell.inference.training.masked_language import Hiding, Pretraining, pretrain
from earlybell.inference.training.optimise import Schedule
from earlybell.streams import cli
from tests.inference.training.interruption import interrupted

#: A language in which the first word says what follows.
FOLLOWING = {"acme": "profit soars", "sales": "outlook steady", "shares": "record rise", "loss": "cuts fall"}
SCHEDULE = Schedule(epochs=4, learning_rate=1e-2, head_learning_rate=1e-2, batch_texts=16, precision="float32")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    (directory / "sentiment").mkdir()
    generator = random.Random(1)
    texts: set[str] = set()
    while len(texts) < 400:
        parts = [f"{word} {FOLLOWING[word]}" for word in generator.choices(list(FOLLOWING), k=generator.randint(1, 5))]
        texts.add(" ".join([*parts, *generator.choices("abcdefg", k=2)]))
    for name in ("tfns_train", "tfns_validation", "sentfin_train"):
        row = {"text": sorted(texts)[0], "label": "neutral"}
        (directory / "sentiment" / f"{name}.jsonl").write_text(json.dumps(row))
    (directory / "sentiment" / "finentity.jsonl").write_text("")
    with lzma.open(directory / "unlabelled_headlines.txt.xz", "wt") as file:
        file.write("\n".join(sorted(texts)))
    return directory


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("start")
    config = Config(
        vocabulary=64, embedding=16, hidden=24, heads=2, feed_forward=48, layers=2, groups=2, positions=64,
        projection=True, dropout=0.1,
    )  # fmt: skip
    ElbertForSequenceClassification(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(ElbertForSequenceClassification.from_pretrained(directory).state_dict())


def test_what_is_hidden_follows_berts_rule(tokenizer_file: Path) -> None:
    reader = Reader.open(tokenizer_file, 64)
    hiding = Hiding.by(reader, 0.15)
    generator = np.random.default_rng(0)
    special = [reader.vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    ids: NDArray[np.int64] = generator.choice([*special, *hiding.pieces], (400, 50))
    read, hidden = hiding.hide(ids, [1, 2, 3])
    assert not hidden[np.isin(ids, special)].any(), "special tokens and padding are never hidden"
    assert np.array_equal(read[~hidden], ids[~hidden])
    assert hidden.sum() / (~np.isin(ids, special)).sum() == pytest.approx(0.15, abs=0.01)
    masked, same = read[hidden] == hiding.mask_id, read[hidden] == ids[hidden]
    assert masked.mean() == pytest.approx(0.8, abs=0.03)
    assert same.mean() == pytest.approx(0.1, abs=0.03)
    others = read[hidden][~masked & ~same]
    assert not np.isin(others, special).any()
    assert len(np.unique(others)) > 20
    again, other = hiding.hide(ids, [1, 2, 3]), hiding.hide(ids, [1, 2, 4])
    assert np.array_equal(read, again[0])
    assert np.array_equal(hidden, again[1])
    assert not np.array_equal(hidden, other[1])


def test_the_encoder_learns_and_exits_stay(
    corpus: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["pretrain", out, "--start", start, "--data", corpus, "--headlines", 300, "--epochs", 12,
                 "--batch-texts", 16, "--learning-rate", 1e-2, "--head-learning-rate", 1e-2,
                 "--precision", "float32"]  # fmt: skip
    assert cli.execute([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(printed[printed.index("{") :])
    assert figures["texts"] == 300
    early, end = figures["held_out_after_a_tenth"], figures["held_out"]
    assert (early["n"], early["hidden_tokens"]) == (end["n"], end["hidden_tokens"])
    assert end["n"] == 30
    assert end["loss"] < 0.8 * early["loss"]
    assert end["accuracy"] > early["accuracy"]
    record = json.loads((out / "training.json").read_text())
    assert record["figures"] == figures
    assert "unlabelled_headlines.txt.xz" in record["data_sha256"]
    assert str(tmp_path) not in json.dumps(record)

    before, after = weights(start), weights(out)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("exit")}
    assert ElbertForSequenceClassification.from_pretrained(out).config == (
        ElbertForSequenceClassification.from_pretrained(start).config
    )
    assert not (out / "state.pt").exists()


def test_training_starts_from_it(corpus: Path, start: Path, tmp_path: Path) -> None:
    """Also if the start has no exits: a backbone stays one, without random exits that look trained."""
    headless = ElbertForSequenceClassification.from_pretrained(start, head_hidden=8)
    assert headless.new_weights
    run = Pretraining(
        data=corpus, out=tmp_path / "out", start=str(start), changes={"groups": 1, "head_hidden": 8}, headlines=100,
        schedule=replace(SCHEDULE, epochs=1),
    )  # fmt: skip
    pretrain(run)
    assert set(ElbertForSequenceClassification.from_pretrained(run.out).new_weights) == set(headless.new_weights)
    written = weights(run.out)
    schedule = replace(SCHEDULE, epochs=1, learning_rate=0.0)
    training = Training(data=corpus, out=tmp_path / "trained", start=str(run.out), schedule=schedule)
    model, _, _ = fit(training, [Example("acme profit soars", "positive", "test")], LABELS)
    assert model.config.groups == 1
    for name, value in model.state_dict().items():
        if not name.startswith("exit"):
            assert torch.equal(value, written[name]), name


def test_an_interrupted_run_resumes_to_the_same_weights(
    corpus: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, seed: int = 1) -> dict[str, Any]:
        schedule = replace(SCHEDULE, epochs=2, save_every=7, seed=seed)
        return pretrain(
            Pretraining(data=corpus, out=tmp_path / name, start=str(start), headlines=200, schedule=schedule)
        )

    figures = run("uninterrupted")
    with interrupted(monkeypatch, at=18):
        run("interrupted")
    assert (tmp_path / "interrupted" / "state.pt").is_file()
    resumed = run("interrupted")
    assert resumed["held_out"] == figures["held_out"]
    assert resumed["held_out_after_a_tenth"] is None
    run("other", seed=2)
    before, after, other = (weights(tmp_path / name) for name in ("uninterrupted", "interrupted", "other"))
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert not all(torch.equal(value, other[name]) for name, value in before.items())


def test_held_out_headlines_are_not_trained_on(
    corpus: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []

    def spy(reader: Reader, texts: list[str]) -> Any:
        read.append(list(texts))
        return original(reader, texts)

    original = Reader.read
    monkeypatch.setattr(Reader, "read", spy)
    schedule = replace(SCHEDULE, epochs=1)
    run = Pretraining(data=corpus, out=tmp_path / "out", start=str(start), headlines=10**6, schedule=schedule)
    with pytest.raises(DataError, match="all are held out"):
        pretrain(run)  # all of the file is held out
    pretrain(replace(run, headlines=500))
    trained, held_out = ({text_key(text) for text in texts} for texts in read[-2:])
    assert len(held_out) == 50
    assert len(trained) == 400 - 50 - 1, "all but those and the text of the report sets"
    assert not trained & held_out


def test_mistakes_are_one_line(corpus: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        assert cli.execute(["pretrain", str(tmp_path / "out"), "--data", str(corpus), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    for share in ("0", "1.5", "nan"):
        assert f"{share} is not more than 0 and less than 1" in error("--mask", share)
    assert "no backbone at" in error("--start", str(tmp_path / "nowhere"))
    unable = tmp_path / "unable"
    unable.mkdir()
    for file in start.iterdir():
        (unable / file.name).write_bytes(file.read_bytes().replace(b"[MASK]", b"[GONE]"))
    assert "has no [MASK]" in error("--start", str(unable))
    assert not (tmp_path / "out").exists()
