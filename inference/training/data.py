"""The labelled and unlabelled texts that training reads, and what is set aside from them.

Nothing is chosen on what is reported. Reported: TFNS validation, and the tenth of SEntFiN that ``REPORT_SEED`` sets
aside; neither is trained on, calibrated on or looked at to choose. Chosen on: a dev slice of each training file.
Both slices are drawn by a hash of the text, so that they do not move when a file's order does, and equal texts
always fall on the same side.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from earlybell.inference.model.tokenizer import normalise

REPORT_SEED = "earlybell-report-1"
DEV_SEED = "earlybell-dev-1"
SOURCES = ("tfns", "sentfin", "finentity")
LABELS = ("negative", "neutral", "positive")


class DataError(ValueError):
    """Training data that is missing or not what its reader expects; says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text."""

    text: str
    label: str
    source: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Labelled texts by what they may be used for."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    report: dict[str, tuple[Example, ...]]
    hashes: dict[str, str]  # file name -> SHA-256 of its bytes


def data_directory() -> Path:
    """Where the data lies: ``EARLYBELL_DATA``, else ``../shared/data`` beside the project.

    Raises
    ------
    DataError
        If neither is there.
    """
    candidates = [Path(os.environ["EARLYBELL_DATA"])] if os.environ.get("EARLYBELL_DATA") else []
    candidates.append(Path(__file__).resolve().parents[3] / "shared" / "data")
    for candidate in candidates:
        if (candidate / "sentiment").is_dir():
            return candidate
    raise DataError("no training data: set EARLYBELL_DATA to the directory that holds sentiment/tfns_train.jsonl")


def is_set_aside(text: str, seed: str, share: float = 0.1) -> bool:
    """Whether a hash of the seed and the text falls into the first ``share`` of its range."""
    digest = hashlib.sha256(f"{seed}:{text_key(text)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def text_key(text: str) -> str:
    """What makes two texts the same: their letters and digits, without URLs or case."""
    return "".join(character for character in normalise(text).lower() if character.isalnum())


def read_corpus(directory: Path) -> Corpus:
    """TFNS, SEntFiN and FinEntity, split into train, dev and what is only reported.

    SEntFiN and FinEntity label entities; a text takes part where its entities agree.
    """
    sentiment = directory / "sentiment"
    files = {
        "tfns": sentiment / "tfns_train.jsonl",
        "tfns_validation": sentiment / "tfns_validation.jsonl",
        "sentfin": sentiment / "sentfin_train.jsonl",
        "finentity": sentiment / "finentity.jsonl",
    }
    tfns = [Example(row["text"], row["label"], "tfns") for row in _rows(files["tfns"])]
    validation = [Example(row["text"], row["label"], "tfns_validation") for row in _rows(files["tfns_validation"])]
    sentfin = [Example(row["text"], row["label"], "sentfin") for row in _rows(files["sentfin"]) if row["label"]]
    finentity = [
        Example(row["content"], labels.pop().lower(), "finentity")
        for row in _rows(files["finentity"])
        if len(labels := {one["label"] for one in row["annotations"]}) == 1
    ]
    sentfin_report = [one for one in sentfin if is_set_aside(one.text, REPORT_SEED)]
    reported = {text_key(one.text) for one in (*validation, *sentfin_report)}
    usable = [one for one in (*tfns, *sentfin, *finentity) if text_key(one.text) not in reported]
    dev = tuple(one for one in usable if is_set_aside(one.text, DEV_SEED))
    dev_keys = {text_key(one.text) for one in dev}
    return Corpus(
        train=tuple(one for one in usable if text_key(one.text) not in dev_keys),
        dev=dev,
        report={"tfns_validation": tuple(validation), "sentfin_report": tuple(sentfin_report)},
        hashes={path.name: hash_file(path) for path in files.values()},
    )


def part_of_corpus(directory: Path, name: str) -> tuple[list[Example], list[str]]:
    """A part of the corpus that was not trained on, by its name.

    Parameters
    ----------
    name
        ``tfns_validation``, ``sentfin_report``, or ``finentity_unseen``: FinEntity's dev slice, beside the texts whose
        entities disagree, which have no label of their own.

    Returns
    -------
    examples, further
        Labelled texts, and texts without a label.
    """
    corpus = read_corpus(directory)
    if name in corpus.report:
        return list(corpus.report[name]), []
    if name != "finentity_unseen":
        raise DataError(f"no part {name!r}: it is one of {', '.join(corpus.report)}, finentity_unseen")
    dev = [one for one in corpus.dev if one.source == "finentity"]
    seen = {text_key(one.text) for one in (*corpus.train, *dev)}
    everything = [row["content"] for row in _rows(directory / "sentiment" / "finentity.jsonl")]
    return dev, [text for text in everything if text_key(text) not in seen]


def read_unlabelled(path: Path, count: int, seed: int, exclude: Iterable[Example] = ()) -> list[str]:
    """``count`` distinct headlines drawn by ``seed``, none of which is among ``exclude``'s texts.

    Parameters
    ----------
    path
        A text file, one headline a line; ``.xz`` is unpacked on the way.
    exclude
        What is reported or chosen on: not even its unlabelled text is trained on.
    """
    if not path.is_file():
        raise DataError(f"no unlabelled headlines at {path}")
    barred = {text_key(one.text) for one in exclude}
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        texts = [line.strip() for line in lines]
    random.Random(seed).shuffle(texts)
    chosen: list[str] = []
    for text in texts:
        if len(chosen) == count:
            break
        if text and text_key(text) not in barred:
            chosen.append(text)
    return chosen


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def length_sorted_batches(
    lengths: Sequence[int], tokens: int, generator: random.Random, *, texts: int = 10**9, pool: int = 4096
) -> list[list[int]]:
    """One epoch of batches of near-equal lengths, in random order.

    The texts are shuffled, sorted within pools of ``pool``, cut so that a padded batch holds at most ``tokens``
    tokens and ``texts`` texts, and the batches are shuffled: little padding, little order.
    """
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batch: list[int] = []
        for index in sorted(order[start : start + pool], key=lambda one: lengths[one]):
            if batch and (len(batch) == texts or (len(batch) + 1) * lengths[index] > tokens):
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    generator.shuffle(batches)
    return batches


def _rows(path: Path) -> Iterator[dict]:  # type: ignore[type-arg]
    if not path.is_file():
        raise DataError(f"no data at {path}")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from error
