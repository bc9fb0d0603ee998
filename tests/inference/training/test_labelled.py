from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from earlybell.inference.training.data import DEV_SEED, DataError, Example, is_held_out, text_key
from earlybell.inference.training.labelled import LabelledFile, labels_of, sample, split

LABELS = ("negative", "neutral", "positive")
CSV = 'title,mood\n"Acme, up",bullish\nAcme down,Negative\nAcme,1\n'
TSV = "title\tmood\nAcme, up\tbullish\nAcme down\tNEGATIVE\nAcme\tneutral\n"
JSONL = '{"title":"Acme, up","mood":"bullish"}\n\n{"title":"Acme down","mood":0}\n{"title":"Acme","mood":1}\n'

#: Suffix -> compressor.
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress,
}  # fmt: skip


def file(path: Path, **changes: Any) -> LabelledFile:
    return LabelledFile(
        path=path, text_column="title", label_column="mood", label_map={"bullish": "positive"}, **changes
    )


@pytest.mark.parametrize(("name", "content"), [("a.csv", CSV), ("a.tsv", TSV), ("a.jsonl", JSONL)])
@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_format_and_compression_is_read(tmp_path: Path, name: str, content: str, suffix: str) -> None:
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESSORS[suffix](content.encode()))
    assert [(example.text, example.label) for example in file(path).read(LABELS)] == [
        ("Acme, up", "positive"),
        ("Acme down", "negative"),
        ("Acme", "neutral"),
    ]


def test_without_a_model_the_labels_are_the_files_own(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(
        '{"text": "Good.<br /><br>Very good.", "label": "pos"}\n{"text": "Bad.", "label": "NEG"}\n'
        '{"text": null, "label": "pos"}\n{"text": "So so.", "label": null}\n{"text": "Mixed.", "label": 3}\n'
    )
    examples = LabelledFile(path=path, label_map={"neg": "negative", "pos": "positive"}).read()
    assert [(example.text, example.label) for example in examples] == [
        ("Good.  Very good.", "positive"),
        ("Bad.", "negative"),
        ("Mixed.", "3"),
    ]
    assert labels_of(examples) == ("3", "negative", "positive")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a", "label": "odd"}', "row 1: label 'odd' is not one of negative, neutral, positive"),
        (b'{"text": "a", "tone": "odd"}', "no column 'label'; it has text, tone"),
        (b'{"text": "a", "label": null}', "no labelled text"),
        (b"[1]", "line 1: not a JSON object"),
        (b"{", "not CSV, TSV or JSONL"),
        (b"\xff\xfe", "not CSV, TSV or JSONL"),
    ],
)
def test_an_unreadable_file_is_reported_with_the_row(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        LabelledFile(path=path).read(LABELS)


@pytest.mark.parametrize("cut", [0, 20])
def test_a_damaged_archive_is_reported(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.csv.xz"
    path.write_bytes(lzma.compress(CSV.encode())[:cut] + (b"garbage" if not cut else b""))
    with pytest.raises(DataError, match="damaged"):
        LabelledFile(path=path).read(LABELS)


def test_a_label_map_must_name_labels_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,up\n")
    with pytest.raises(DataError, match="up=positiv: the model's labels are negative"):
        LabelledFile(path=path, label_map={"up": "positiv"}).read(LABELS)


def test_too_few_or_too_many_labels_are_refused() -> None:
    with pytest.raises(DataError, match="1 different label"):
        labels_of([Example("a", "x", "s"), Example("b", "x", "s")])
    with pytest.raises(DataError, match="is this the label column"):
        labels_of([Example("a", str(number), "s") for number in range(100)])


def test_a_tenth_is_held_out_by_the_text_alone() -> None:
    examples = [Example(f"text {number % 500}{'!' * (number // 500)}", "x", "s") for number in range(1000)]
    train, dev = split(examples)
    assert len(train) + len(dev) == 1000
    assert 60 < len(dev) < 140
    assert {text_key(example.text) for example in train}.isdisjoint(text_key(example.text) for example in dev)
    assert all(is_held_out(example.text, DEV_SEED) for example in dev)
    with pytest.raises(DataError, match="too few"):
        split(examples[:1])


def test_texts_are_sampled_by_seed() -> None:
    examples = [Example(str(number), "x", "s") for number in range(50)]
    assert sample(examples, 0) == sample(examples, 50) == sample(examples, 60) == examples
    sampled = sample(examples, 10)
    assert len(sampled) == 10
    assert sampled == sample(examples, 10) != sample(examples, 10, seed=2)
    assert [int(example.text) for example in sampled] == sorted(int(example.text) for example in sampled)
