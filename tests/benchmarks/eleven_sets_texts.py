"""The eleven labelled sets of `eleven_sets`, each split into texts to train, calibrate, count and report on.

Sets that come with a test part are reported on it, the others on a fifth by a hash of the text. What is left is split
by a hash too, into disjoint parts: to train the model, to calibrate it, and to count its token table.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from earlybell.inference.training.data import Example, held_out_part, is_held_out, read_corpus
from earlybell.inference.training.labelled import LabelledFile

TEST_SHARE, DEV_SHARE, COUNTED_SHARE = 0.2, 0.15, 0.3
#: Upper limits of the texts per part; long texts reach `eleven_sets_models.PART_TOKENS` first.
TEST_TEXTS, DEV_TEXTS, COUNTED_TEXTS = 600, 400, 800
SEED = 1
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Texts:
    """One set, split."""

    train: list[Example]
    dev: list[Example]
    counted: list[str]  # in the token table; they need no label
    test: list[Example]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a set lies, relative to the data directory, and how it is written."""

    train: LabelledFile
    test: LabelledFile | None = None
    chinese: bool = False


def _file(path: str, **columns: str) -> LabelledFile:
    return LabelledFile(path=Path(path), **columns)  # type: ignore[arg-type]


#: None: a part of the project's own corpus.
SETS: dict[str, Source | None] = {
    "tfns": None,
    "sentfin": None,
    "finentity": None,
    "sst2": Source(
        _file("sentiment/sst2_train.tsv.xz", text_column="sentence"),
        _file("sentiment/sst2_dev.tsv.xz", text_column="content"),
    ),
    "imdb": Source(_file("long/imdb_train.jsonl.xz"), _file("long/imdb_test.jsonl.xz")),
    "mr": Source(_file("sets/mr.jsonl.xz")),
    "subj": Source(_file("sets/subj.jsonl.xz")),
    "trec": Source(_file("sets/trec_train.jsonl.xz"), _file("sets/trec_test.jsonl.xz")),
    "hotels_zh": Source(_file("sets/chnsenticorp_hotels_zh.jsonl.xz"), chinese=True),
    "waimai_zh": Source(_file("sets/waimai_zh.jsonl.xz"), chinese=True),
    "shopping_zh": Source(_file("sets/online_shopping_zh.jsonl.xz"), chinese=True),
}


def is_chinese(name: str) -> bool:
    """Return whether a set's texts are Chinese."""
    source = SETS[name]
    return source is not None and source.chinese


def read(name: str, data: Path) -> Texts:
    """Read a set and split it; the same texts every time.

    Raises
    ------
    DataError
        If the data is missing or damaged.
    """
    source = SETS[name]
    unlabelled: Sequence[str] = ()
    if source is None:
        labelled, test, unlabelled = _own(name, data)
    else:
        labelled = replace(source.train, path=data / source.train.path).read()
        test = None if source.test is None else replace(source.test, path=data / source.test.path).read()
    return split(labelled, test, unlabelled)


def split(labelled: Sequence[Example], test: Sequence[Example] | None, unlabelled: Sequence[str] = ()) -> Texts:
    """Split the labelled texts of a set; ``unlabelled`` ones of the same kind are counted too."""
    if test is None:
        test = _held_out(labelled, "test", TEST_SHARE)
        labelled = _others(labelled, "test", TEST_SHARE)
    reported = {example.text for example in test}
    labelled = [example for example in labelled if example.text not in reported]
    dev, rest = _held_out(labelled, "dev", DEV_SHARE), _others(labelled, "dev", DEV_SHARE)
    counted = [example.text for example in _held_out(rest, "counted", COUNTED_SHARE)]
    return Texts(
        train=_shuffled(_others(rest, "counted", COUNTED_SHARE)),
        dev=_shuffled(dev)[:DEV_TEXTS],
        counted=_shuffled([*counted, *unlabelled])[:COUNTED_TEXTS],
        test=_shuffled(test)[:TEST_TEXTS],
    )


def _own(name: str, data: Path) -> tuple[list[Example], list[Example] | None, list[str]]:
    corpus = _corpus(data)
    labelled = [example for example in (*corpus.train, *corpus.dev) if example.source == name]
    if name == "finentity":  # its texts whose entities disagree have no single label
        return labelled, None, held_out_part(data, "finentity_unseen")[1]
    return labelled, list(corpus.report[{"tfns": "tfns_validation", "sentfin": "sentfin_report"}[name]]), []


_corpus = lru_cache(maxsize=1)(read_corpus)


def _held_out(examples: Sequence[Example], part: str, share: float) -> list[Example]:
    return [example for example in examples if is_held_out(example.text, f"eleven-sets-{part}", share)]


def _others(examples: Sequence[Example], part: str, share: float) -> list[Example]:
    return [example for example in examples if not is_held_out(example.text, f"eleven-sets-{part}", share)]


def _shuffled(items: Sequence[_Item]) -> list[_Item]:
    shuffled = list(items)
    random.Random(SEED).shuffle(shuffled)
    return shuffled
