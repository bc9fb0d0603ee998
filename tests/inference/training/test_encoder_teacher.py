"""A teacher of another architecture: it learns, resumes, labels, and a student learns from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel

from earlybell.inference.training import encoder_teacher, teaching
from earlybell.inference.training.data import LABELS
from earlybell.inference.training.distil import Distillation, distil
from earlybell.inference.training.encoder_teacher import EncoderTeacher, TeacherTraining, train_teacher
from earlybell.inference.training.optimise import Schedule
from earlybell.streams import cli
from tests.inference.training.interruption import interrupted
from tests.inference.training.test_distil import SCHEDULE, corpus, sentences, teacher

__all__ = ["corpus", "teacher"]  # fixtures

TEACHING = Schedule(
    epochs=4, learning_rate=5e-3, head_learning_rate=1e-2, layer_decay=0.9, batch_texts=8, precision="float32",
    save_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("encoder")
    config = DistilBertConfig(
        vocab_size=64, dim=16, n_heads=2, hidden_dim=32, n_layers=2, max_position_embeddings=128, pad_token_id=0
    )
    DistilBertModel(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    return directory


def test_an_interrupted_training_resumes_and_the_teacher_labels_as_it_learned(
    corpus: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TeacherTraining(data=corpus, out=tmp_path / "teacher", start=str(encoder), schedule=TEACHING)
    with interrupted(monkeypatch, at=40):
        train_teacher(run)
    figures = train_teacher(run)
    examples = sentences(90, 20)
    # With what news has and a tokenizer does not accept.
    texts = [f"{example.text} \ud83d https://t.co/{number}" for number, example in enumerate(examples)]
    logits = teaching.teacher_logits(run.out, texts, tmp_path / "labels", precision="float32")
    assert logits.shape == (90, 3)
    assert (logits.argmax(-1) == [LABELS.index(example.label) for example in examples]).mean() > 0.9
    assert figures["dev_tfns"]["accuracy"] > 0.8
    record = json.loads((run.out / "training.json").read_text())
    assert record["figures"] == figures
    assert record["configuration"]["schedule"]["layer_decay"] == 0.9

    without_pause = TeacherTraining(data=corpus, out=tmp_path / "again", start=str(encoder), schedule=TEACHING)
    assert {**train_teacher(without_pause), "seconds": 0} == {**figures, "seconds": 0}

    # Once only: the labels are kept, whatever becomes of the teacher's loader.
    monkeypatch.setattr(teaching, "labeller", None)
    assert np.array_equal(teaching.teacher_logits(run.out, texts, tmp_path / "labels"), logits)


def test_a_teacher_goes_on_learning_with_its_own_head(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    first = TeacherTraining(data=corpus, out=tmp_path / "first", start=str(encoder), schedule=TEACHING)
    learned = train_teacher(first)["dev_tfns"]["accuracy"]
    # At this rate nothing is learned from an untrained head.
    still = replace(TEACHING, epochs=1, learning_rate=1e-9, head_learning_rate=1e-9)
    again = TeacherTraining(data=corpus, out=tmp_path / "again", start=str(first.out), schedule=still)
    assert train_teacher(again)["dev_tfns"]["accuracy"] == pytest.approx(learned, abs=0.02)


def test_a_student_learns_from_it_beside_a_teacher_of_ours(
    corpus: Path, encoder: Path, teacher: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    train_teacher(TeacherTraining(data=corpus, out=other, start=str(encoder), schedule=TEACHING))
    figures = distil(
        Distillation(
            data=corpus, out=tmp_path / "student", teachers=(other, teacher), start=teacher, unlabelled=130,
            cache=tmp_path / "labels", labelled_repeats=1, schedule=SCHEDULE,
        )
    )  # fmt: skip
    assert figures["tfns_validation"]["accuracy"] > 0.6


def test_a_layer_learns_more_slowly_than_the_one_above_and_the_embedding_not_at_all(
    corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    before = EncoderTeacher.to_train(encoder).state_dict()
    schedule = Schedule(epochs=1, learning_rate=1e-4, layer_decay=0.01, batch_texts=64, precision="float32")
    run = TeacherTraining(
        data=corpus, out=tmp_path / "teacher", start=str(encoder), labelled_repeats=1, schedule=schedule
    )
    train_teacher(run)
    after = EncoderTeacher.load(run.out).state_dict()

    def moved(name: str) -> float:
        return float((after[f"encoder.{name}"] - before[f"encoder.{name}"]).abs().max())

    assert moved("embeddings.word_embeddings.weight") == 0
    layers = [moved(f"transformer.layer.{number}.ffn.lin1.weight") for number in (0, 1)]
    assert 0 < layers[0] < layers[1] / 20


def test_an_encoder_without_weights_or_without_a_tokenizer_is_refused_in_one_line(
    corpus: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing, reason in (("model.safetensors", "no encoder"), ("tokenizer.json", "no tokenizer.json")):
        start = tmp_path / missing.partition(".")[0]
        start.mkdir()
        for file in encoder.iterdir():
            if file.name != missing:
                (start / file.name).write_bytes(file.read_bytes())
        arguments = ["train-teacher", str(tmp_path / "out"), "--start", str(start), "--data", str(corpus)]
        assert cli.execute(arguments) != 0
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert reason in line
        assert not encoder_teacher.is_encoder_teacher(start)
