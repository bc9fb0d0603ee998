"""Distillation end to end on a toy corpus: labels are cached, the vocabulary shrinks, the student learns."""

from __future__ import annotations

import gzip
import json
import lzma
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybell.inference.kernels import library
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.model.weights import CheckpointError
from earlybell.inference.training import teaching
from earlybell.inference.training.company_news import announcements
from earlybell.inference.training.data import LABELS, POSTS, Example
from earlybell.inference.training.distil import Distillation, distil
from earlybell.inference.training.fit import Training, fit
from earlybell.inference.training.measures import softmax
from earlybell.inference.training.optimise import Schedule, all_logits
from earlybell.inference.training.vocabulary import frequent_pieces, prune_embedding, pruned_tokenizer

KEYWORDS = {"negative": "fall", "neutral": "steady", "positive": "soars"}
FILLER = ["acme", "profit", "sales", "shares", "loss", "cuts", "a", "b", "c", "d"]
SCHEDULE = Schedule(epochs=6, learning_rate=5e-3, head_learning_rate=1e-2, batch_texts=8, precision="float32")


def sentences(count: int, seed: int) -> list[Example]:
    generator = random.Random(seed)
    examples = []
    for _ in range(count):
        label = generator.choice(LABELS)
        words = [*generator.choices(FILLER, k=generator.randint(2, 7)), KEYWORDS[label]]
        generator.shuffle(words)
        examples.append(Example(" ".join(words), label, "test"))
    return examples


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    (directory / "sentiment").mkdir()

    def write(name: str, examples: list[Example]) -> None:
        rows = [json.dumps({"text": example.text, "label": example.label}) for example in examples]
        (directory / "sentiment" / name).write_text("\n".join(rows))

    write("tfns_train.jsonl", sentences(150, 1))
    write("tfns_validation.jsonl", sentences(60, 2))
    write("sentfin_train.jsonl", sentences(60, 3))
    entities = [
        {"content": example.text, "annotations": [{"label": example.label.title()}]} for example in sentences(20, 4)
    ]
    (directory / "sentiment" / "finentity.jsonl").write_text("\n".join(map(json.dumps, entities)))
    with lzma.open(directory / "unlabelled_headlines.txt.xz", "wt") as file:
        file.write("\n".join(dict.fromkeys(example.text for example in sentences(300, 5))))
    (directory / POSTS).parent.mkdir()
    with gzip.open(directory / POSTS, "wt") as file:
        file.writelines(json.dumps({"text": example.text, "lang": "en"}) + "\n" for example in sentences(50, 6))
    return directory


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("start")
    config = Config(vocabulary=64, embedding=16, hidden=16, heads=2, feed_forward=32, layers=3, groups=3, positions=64)
    ElbertForSequenceClassification(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    run = Training(data=directory, out=directory.with_name("teacher"), start=str(directory), schedule=SCHEDULE)
    fit(run, sentences(200, 9), LABELS)
    return run.out


def test_a_student_learns_from_its_teacher(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    run = Distillation(
        data=corpus, out=tmp_path / "student", teachers=(teacher,), start=teacher, cache=tmp_path / "labels",
        changes={"groups": 1, "head_hidden": 8}, vocabulary=46, unlabelled=130, posts=20, announcements=12,
        labelled_repeats=1,
        schedule=replace(SCHEDULE, average=0.9),
    )  # fmt: skip
    figures = distil(run)
    assert figures["tfns_validation"]["accuracy"] > 0.6
    assert len(figures["tfns_validation"]["accuracy_per_exit"]) == 4
    student = ElbertForSequenceClassification.from_pretrained(run.out)
    assert (student.config.groups, student.config.vocabulary) == (1, 46)
    record = json.loads((run.out / "training.json").read_text())
    assert record["figures"] == json.loads(json.dumps(figures))
    assert record["configuration"]["teachers"] == [teacher.name], "no directories of this machine"
    assert set(record["data_sha256"]) >= {
        "tfns_train.jsonl",
        "unlabelled_headlines.txt.xz",
        "tweets_2014_2016.jsonl.gz",
    }
    again = distil(replace(run, out=tmp_path / "again"))
    assert {**again, "seconds": 0} == {**figures, "seconds": 0}


def test_another_seed_can_read_the_same_texts(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    run = Distillation(
        data=corpus, out=tmp_path / "student", teachers=(teacher,), start=teacher, cache=tmp_path / "labels",
        unlabelled=60, posts=10, labelled=30, announcements=12, constructed=12, taught=0.5, labelled_repeats=1,
        schedule=SCHEDULE,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="2 times --exit-weight for a model with 4 exits"):
        distil(replace(run, exit_weights=(2.0, 1.0)))
    distil(run)
    labels = sorted(run.cache.iterdir())
    other = replace(run, out=tmp_path / "other", schedule=replace(SCHEDULE, seed=SCHEDULE.seed + 1))
    distil(replace(other, texts_seed=SCHEDULE.seed))
    assert sorted(run.cache.iterdir()) == labels, "its teachers had answered all of them"
    weights = [(student / "model.safetensors").read_bytes() for student in (run.out, other.out)]
    assert weights[0] != weights[1], "but it read them in another order"
    distil(replace(other, out=tmp_path / "third"))
    assert sorted(run.cache.iterdir()) != labels


def test_with_exits_only_early_exits_learn_the_last_exits_answers(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    changes = {"labels": LABELS, "depth_zero": False}
    start = ElbertForSequenceClassification.from_pretrained(teacher, **changes)
    for exit_ in start.exits[:-1]:
        exit_.apply(lambda module: module.reset_parameters() if isinstance(module, torch.nn.Linear) else None)
    start.save_pretrained(tmp_path / "start")
    (tmp_path / "start" / "tokenizer.json").write_bytes((teacher / "tokenizer.json").read_bytes())
    run = Distillation(
        data=corpus, out=tmp_path / "self", teachers=(tmp_path / "start",), start=tmp_path / "start", exits_only=True,
        cache=tmp_path / "labels", unlabelled=150, labelled_repeats=1, temperature=1.0, hard_weight=0.0,
        schedule=SCHEDULE,
    )  # fmt: skip
    distil(run)
    trained = ElbertForSequenceClassification.from_pretrained(run.out)
    before, after = start.state_dict(), trained.state_dict()
    early = {name for name in before if name.startswith(("exits.0.", "exits.1."))}
    assert early == {name for name in before if not torch.equal(before[name], after[name])}
    rows = Reader.open(run.out / "tokenizer.json", 64).read([example.text for example in sentences(100, 8)])
    answers = all_logits(trained, rows, precision="float32").argmax(-1)
    assert (answers[:, :-1] == answers[:, -1:]).mean(0).min() > 0.8
    with pytest.raises(CheckpointError, match="fine-tuned"):
        distil(replace(run, changes={"head_hidden": 8}, out=tmp_path / "never"))


def test_texts_with_certain_labels_can_be_learned_from_the_teachers_too(
    corpus: Path, teacher: Path, tmp_path: Path
) -> None:
    def distance_from_the_teacher(taught: float) -> float:
        run = Distillation(
            data=corpus, out=tmp_path / f"student-{taught}", teachers=(teacher,), start=teacher, unlabelled=0,
            cache=tmp_path / "labels", labelled=1, labelled_repeats=1, announcements=80, temperature=1.0,
            hard_weight=0.0, taught=taught, schedule=SCHEDULE,
        )  # fmt: skip
        distil(run)
        texts = [example.text for example in announcements(80, SCHEDULE.seed)]
        student = ElbertForSequenceClassification.from_pretrained(run.out)
        rows = Reader.open(run.out / "tokenizer.json", 64).read(texts)
        answers = softmax(all_logits(student, rows, precision="float32")[:, -1])
        wanted = softmax(teaching.teacher_logits(teacher, texts, run.cache, precision="float32"))
        return float(np.abs(answers - wanted).mean())

    assert distance_from_the_teacher(1.0) < 0.3 * distance_from_the_teacher(0.0)


def test_a_teachers_logits_are_computed_once(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [example.text for example in sentences(25, 6)]
    monkeypatch.setattr(teaching, "SHARD_TEXTS", 10)
    first = teaching.teacher_logits(teacher, texts, tmp_path, precision="float32")
    assert first.shape == (25, 3)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    monkeypatch.setattr(teaching, "ElbertForSequenceClassification", None)  # computing them again would fail
    assert np.array_equal(teaching.teacher_logits(teacher, texts, tmp_path), first)
    with pytest.raises(AttributeError):
        teaching.teacher_logits(teacher, ["another text"], tmp_path)


def test_int8_teachers_answer_as_in_float32(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library.load() is None:
        pytest.skip("no kernels here")
    texts = [example.text for example in sentences(200, 7)]
    int8 = teaching.teacher_logits(teacher, texts, tmp_path / "int8", precision="float32")
    monkeypatch.setattr(teaching, "int8_kernels", lambda config: None)
    float32 = teaching.teacher_logits(teacher, texts, tmp_path / "float32", precision="float32")
    assert not np.array_equal(int8, float32)
    assert np.abs(softmax(int8 / 2) - softmax(float32 / 2)).max() < 0.05


def test_a_smaller_vocabulary_reads_frequent_words_alike(
    tokenizer_file: Path, tiny_model: ElbertForSequenceClassification
) -> None:
    reader = Reader.open(tokenizer_file, 64)
    texts = ["acme profit soars", "acme falls"]
    kept = frequent_pieces(reader, texts, 39)
    assert kept == sorted(kept)
    smaller = Reader(pruned_tokenizer(tokenizer_file, kept).to_str(), 64)
    for before, after in zip(reader.read(texts), smaller.read(texts), strict=True):
        assert [kept[token] for token in after] == before.tolist()
    # A dropped piece falls back to shorter ones, down to single characters.
    (ids,) = smaller.read(["record"])
    assert [smaller.tokenizer.id_to_token(int(token)) for token in ids] != ["[CLS]", "record", "[SEP]"]
    pruned = prune_embedding(tiny_model, kept).eval()
    with torch.inference_mode():
        for before, after in zip(reader.read(texts), smaller.read(texts), strict=True):
            mask = torch.ones(1, len(before), dtype=torch.bool)
            old = tiny_model(torch.from_numpy(before)[None].long(), mask)
            assert torch.equal(old, pruned(torch.from_numpy(after)[None].long(), mask))


def test_logits_do_not_depend_on_the_batch(teacher: Path) -> None:
    model = ElbertForSequenceClassification.from_pretrained(teacher)
    rows = Reader.open(teacher / "tokenizer.json", 64).read([example.text for example in sentences(40, 7)])
    small_batches = all_logits(model, rows, precision="float32", batch_tokens=12)
    assert np.allclose(small_batches, all_logits(model, rows, precision="float32"), atol=1e-5)
