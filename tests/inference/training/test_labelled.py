from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from earlybell.inference.training.data import DEV_SEED, DataError, Example, is_set_aside, text_key
from earlybell.inference.training.labelled import LabelledFile, drawn, labels_of, split

LABELS = ("negative", "neutral", "positive")
CSV = 'title,mood\n"Acme, up",bullish\nAcme down,Negative\nAcme,1\n'
TSV = "title\tmood\nAcme, up\tbullish\nAcme down\tNEGATIVE\nAcme\tneutral\n"
JSONL = '{"title":"Acme, up","mood":"bullish"}\n\n{"title":"Acme down","mood":0}\n{"title":"Acme","mood":1}\n'


#: By the end of a name, what packs a file so.
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress,
}  # fmt: skip


def file(path: Path, **changes: Any) -> LabelledFile:
    return LabelledFile(
        path=path, text_column="title", label_column="mood", label_map={"bullish": "positive"}, **changes
    )


@pytest.mark.parametrize(("name", "content"), [("a.csv", CSV), ("a.tsv", TSV), ("a.jsonl", JSONL)])
@pytest.mark.parametrize("packed", PACKERS)
def test_labelled_texts_are_read_from_what_people_have(tmp_path: Path, name: str, content: str, packed: str) -> None:
    path = tmp_path / (name + packed)
    path.write_bytes(PACKERS[packed](content.encode()))
    assert [(one.text, one.label) for one in file(path).read(LABELS)] == [
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
    found = LabelledFile(path=path, label_map={"neg": "negative", "pos": "positive"}).read()
    assert [(one.text, one.label) for one in found] == [
        ("Good.  Very good.", "positive"),
        ("Bad.", "negative"),
        ("Mixed.", "3"),
    ]
    assert labels_of(found) == ("3", "negative", "positive")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"text": "a", "label": "odd"}', "row 1: label 'odd' is none of negative, neutral, positive"),
        (b'{"text": "a", "tone": "odd"}', "no column 'label'; it has text, tone"),
        (b'{"text": "a", "label": null}', "no labelled text"),
        (b"[1]", "line 1: not a JSON object"),
        (b"{", "neither CSV, TSV nor JSONL"),
        (b"\xff\xfe", "neither CSV, TSV nor JSONL"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        LabelledFile(path=path).read(LABELS)


@pytest.mark.parametrize("cut", [0, 20])
def test_a_damaged_archive_is_said_to_be_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.csv.xz"
    path.write_bytes(lzma.compress(CSV.encode())[:cut] + (b"garbage" if not cut else b""))
    with pytest.raises(DataError, match="damaged"):
        LabelledFile(path=path).read(LABELS)


def test_a_label_map_must_lead_to_a_label(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,up\n")
    with pytest.raises(DataError, match="up=positiv: the model's labels are negative"):
        LabelledFile(path=path, label_map={"up": "positiv"}).read(LABELS)


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(DataError, match="1 different label"):
        labels_of([Example("a", "x", "s"), Example("b", "x", "s")])
    with pytest.raises(DataError, match="is it the column"):
        labels_of([Example("a", str(number), "s") for number in range(100)])


def test_a_tenth_is_set_aside_by_the_text_alone() -> None:
    examples = [Example(f"text {number % 500}{'!' * (number // 500)}", "x", "s") for number in range(1000)]
    train, dev = split(examples)
    assert len(train) + len(dev) == 1000
    assert 60 < len(dev) < 140
    assert {text_key(one.text) for one in train}.isdisjoint(text_key(one.text) for one in dev)
    assert all(is_set_aside(one.text, DEV_SEED) for one in dev)
    with pytest.raises(DataError, match="too few"):
        split(examples[:1])


def test_texts_are_drawn_by_seed() -> None:
    examples = [Example(str(number), "x", "s") for number in range(50)]
    assert drawn(examples, 0) == drawn(examples, 50) == drawn(examples, 60) == examples
    some = drawn(examples, 10)
    assert len(some) == 10
    assert some == drawn(examples, 10) != drawn(examples, 10, seed=2)
    assert [int(one.text) for one in some] == sorted(int(one.text) for one in some)
