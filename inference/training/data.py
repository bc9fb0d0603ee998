"""The labelled and unlabelled texts for training, and what is held out from them.

The *report* sets are TFNS validation and the tenth of SEntFiN selected by ``REPORT_SEED``: never trained on,
calibrated on, or used to choose between experiments. Choices are made on the *dev* slices, one from each training
file. Slices are selected by a hash of the text, so that they do not change with the order of a file, and equal texts
always fall on the same side.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import lzma
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from earlybell.errors import UserError
from earlybell.inference.model.tokenizer import normalise

REPORT_SEED = "earlybell-report-1"
DEV_SEED = "earlybell-dev-1"
ARTICLES_SEED = "earlybell-articles-1"
SOURCES = ("tfns", "sentfin", "finentity")
LABELS = ("negative", "neutral", "positive")
#: The headlines without labels, in the data directory.
UNLABELLED = "unlabelled_headlines.txt.xz"
#: Tweets without labels, likewise.
POSTS = "market/tweets_2014_2016.jsonl.gz"


class DataError(UserError):
    """Training data that is missing or not what its reader expects; says which file and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text."""

    text: str
    label: str
    source: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Labelled texts, split by what they may be used for."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    report: dict[str, tuple[Example, ...]]
    hashes: dict[str, str]  # file name -> SHA-256 of its bytes

    @property
    def held_out(self) -> list[Example]:
        """The texts that nothing may be fitted to: dev and report."""
        return [*self.dev, *(example for part in self.report.values() for example in part)]


def data_directory(named: Path | None = None) -> Path:
    """Return the data directory: the one named, else ``EARLYBELL_DATA``, else ``../shared/data`` beside the project.

    Raises
    ------
    DataError
        If the one named has no training data, or neither of the others exists.
    """
    if named is not None:
        if not (named / "sentiment").is_dir():
            raise DataError(f"no training data at {named}: it has no sentiment/tfns_train.jsonl")
        return named
    candidates = [Path(os.environ["EARLYBELL_DATA"])] if os.environ.get("EARLYBELL_DATA") else []
    candidates.append(Path(__file__).resolve().parents[3] / "shared" / "data")
    for candidate in candidates:
        if (candidate / "sentiment").is_dir():
            return candidate
    raise DataError("no training data: set EARLYBELL_DATA to the directory that holds sentiment/tfns_train.jsonl")


def is_held_out(text: str, seed: str, share: float = 0.1) -> bool:
    """Return whether the hash of the seed and the text falls into the first ``share`` of its range."""
    digest = hashlib.sha256(f"{seed}:{text_key(text)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def text_key(text: str) -> str:
    """Return the key by which two texts are equal: letters and digits, without URLs or case."""
    return "".join(character for character in normalise(text).lower() if character.isalnum())


def read_corpus(directory: Path) -> Corpus:
    """Read TFNS, SEntFiN and FinEntity, split into train, dev and report.

    SEntFiN and FinEntity label entities; a text is used where its entities agree.
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
        if len(labels := {annotation["label"] for annotation in row["annotations"]}) == 1
    ]
    sentfin_report = [example for example in sentfin if is_held_out(example.text, REPORT_SEED)]
    reported = {text_key(example.text) for example in (*validation, *sentfin_report)}
    usable = [example for example in (*tfns, *sentfin, *finentity) if text_key(example.text) not in reported]
    dev = tuple(example for example in usable if is_held_out(example.text, DEV_SEED))
    dev_keys = {text_key(example.text) for example in dev}
    return Corpus(
        train=tuple(example for example in usable if text_key(example.text) not in dev_keys),
        dev=dev,
        report={"tfns_validation": tuple(validation), "sentfin_report": tuple(sentfin_report)},
        hashes={path.name: hash_file(path) for path in files.values()},
    )


def held_out_part(directory: Path, name: str) -> tuple[list[Example], list[str]]:
    """Read a part of the corpus that was not trained on.

    Parameters
    ----------
    name
        ``tfns_validation``, ``sentfin_report``, or ``finentity_unseen``: FinEntity's dev slice, and the texts whose
        entities disagree, which have no single label.

    Returns
    -------
    examples, unlabelled
        Labelled texts, and texts without a label.

    Raises
    ------
    DataError
        If the data is missing or no part has this name.
    """
    corpus = read_corpus(directory)
    if name in corpus.report:
        return list(corpus.report[name]), []
    if name != "finentity_unseen":
        raise DataError(f"no part {name!r}: choose one of {', '.join(corpus.report)}, finentity_unseen")
    dev = [example for example in corpus.dev if example.source == "finentity"]
    seen = {text_key(example.text) for example in (*corpus.train, *dev)}
    texts = [row["content"] for row in _rows(directory / "sentiment" / "finentity.jsonl")]
    return dev, [text for text in texts if text_key(text) not in seen]


def read_unlabelled(path: Path, count: int, seed: int, exclude: Iterable[Example] = ()) -> list[str]:
    """Sample up to ``count`` headlines by ``seed``, leaving out the texts of ``exclude``.

    Parameters
    ----------
    path
        A text file with one headline per line, plain or ``.xz``.
    exclude
        The report and dev texts, which are not trained on even without their labels.
    """
    if not path.is_file():
        raise DataError(f"no unlabelled headlines at {path}")
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        return _sampled((line.strip() for line in lines), count, seed, exclude)


def read_posts(path: Path, count: int, seed: int, exclude: Iterable[Example] = ()) -> list[str]:
    """Sample English tweets as `read_unlabelled` does headlines; what repeats another one counts once.

    Parameters
    ----------
    path
        A ``.jsonl.gz`` file of objects with ``text`` and ``lang``.
    """
    if not path.is_file():
        raise DataError(f"no tweets at {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        posts = [row["text"] for row in map(json.loads, lines) if row["lang"] == "en"]
    return _sampled({text_key(post): " ".join(post.split()) for post in posts}.values(), count, seed, exclude)


def _sampled(texts: Iterable[str], count: int, seed: int, exclude: Iterable[Example]) -> list[str]:
    excluded = {text_key(example.text) for example in exclude}
    shuffled = list(texts)
    random.Random(seed).shuffle(shuffled)
    allowed = (text for text in shuffled if text and text_key(text) not in excluded)
    return list(itertools.islice(allowed, count))


def read_articles(directory: Path) -> tuple[list[str], list[str]]:
    """Read news articles, headline and body, without labels: the half that choices are made on, and the reported half.

    Raises
    ------
    DataError
        If there are none.
    """
    path = directory / "long" / "articles.jsonl.xz"
    if not path.is_file():
        raise DataError(f"no articles at {path}")
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        texts = [f"{row['title']}. {row['body']}" for row in map(json.loads, lines)]
    dev = [text for text in texts if is_held_out(text, ARTICLES_SEED, 0.5)]
    return dev, [text for text in texts if not is_held_out(text, ARTICLES_SEED, 0.5)]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def length_sorted_batches(
    lengths: Sequence[int], tokens: int, generator: random.Random, *, texts: int = 10**9, pool: int = 4096
) -> list[list[int]]:
    """Return one epoch of batches of similar lengths (indices of texts), in random order.

    The texts are shuffled, sorted by length within pools of ``pool``, cut into batches of at most ``tokens`` tokens
    (padding included) and ``texts`` texts, and the batches are shuffled.
    """
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        batch: list[int] = []
        for index in sorted(order[start : start + pool], key=lengths.__getitem__):
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
