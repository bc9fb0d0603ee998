"""Reads any file of labelled texts, with its own format, columns and label names, and splits it.

Knows files and labels; must not know models, or what the texts are used for.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from earlybell.inference.training.data import DEV_SEED, DataError, Example, is_held_out

#: With more distinct labels than this the column is probably not the labels'.
MAX_LABELS = 64
_OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError, json.JSONDecodeError, csv.Error)
#: Texts scraped from web pages still contain their line breaks.
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFile:
    """A CSV, TSV or JSONL file (plain, .gz, .xz or .bz2), and the names of its columns and labels.

    Attributes
    ----------
    label_map
        The file's label names -> the model's.
    """

    path: Path
    text_column: str = "text"
    label_column: str = "label"
    label_map: Mapping[str, str] = field(default_factory=dict)

    def read(self, labels: Sequence[str] | None = None) -> list[Example]:
        """Read the texts with their labels; rows without a text or a label (null) are left out.

        Parameters
        ----------
        labels
            The model's labels. Each row's must be one of them, in any case, or an index into them. None: keep the
            file's own labels, after ``label_map``.

        Raises
        ------
        DataError
            If the file or a column is missing, the file is damaged, or a label is unknown.
        """
        if not self.path.is_file():
            raise DataError(f"no file at {self.path}")
        known = None if labels is None else self._known(labels)
        label_names = {name.lower(): label for name, label in self.label_map.items()}
        examples = []
        for number, row in _rows(self.path):
            for column in (self.text_column, self.label_column):
                if column not in row:
                    columns = ", ".join(str(name) for name in row)
                    raise DataError(f"{self.path}, row {number}: no column {column!r}; it has {columns}")
            text, value = row[self.text_column], row[self.label_column]
            if value is None or text is None:
                continue
            name = str(value).strip()
            label = label_names.get(name.lower(), name) if known is None else known.get(name.lower())
            if label is None:
                raise DataError(f"{self.path}, row {number}: label {value!r} is not one of {', '.join(labels or ())}")
            examples.append(Example(_LINE_BREAK.sub(" ", str(text)), label, self.path.name))
        if not examples:
            raise DataError(f"{self.path} has no labelled text")
        return examples

    def _known(self, labels: Sequence[str]) -> dict[str, str]:
        known = {label.lower(): label for label in labels}
        known |= {str(index): label for index, label in enumerate(labels) if str(index) not in known}
        for name, label in self.label_map.items():
            if label.lower() not in known:
                raise DataError(f"label map {name}={label}: the model's labels are {', '.join(labels)}")
        return known | {name.lower(): known[label.lower()] for name, label in self.label_map.items()}


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the labels that occur, sorted: the class order of a model trained on these texts.

    Raises
    ------
    DataError
        If there is only one, or more than ``MAX_LABELS``.
    """
    labels = sorted({example.label for example in examples})
    if not 2 <= len(labels) <= MAX_LABELS:
        raise DataError(f"{len(labels)} different labels ({', '.join(labels[:3])} ...): is this the label column?")
    return tuple(labels)


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Split into train and dev by a hash of the text, so that equal texts fall on the same side."""
    train = [example for example in examples if not is_held_out(example.text, DEV_SEED)]
    dev = [example for example in examples if is_held_out(example.text, DEV_SEED)]
    if not train or not dev:
        raise DataError(f"{len(examples)} labelled texts are too few to hold out a tenth")
    return train, dev


def sample(examples: Sequence[Example], count: int, seed: int = 1) -> list[Example]:
    """Sample ``count`` texts by ``seed``, keeping their order; all of them if ``count`` is 0 or too large."""
    if not 0 < count < len(examples):
        return list(examples)
    return [examples[index] for index in sorted(random.Random(seed).sample(range(len(examples)), count))]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    opener = _OPENERS.get(path.suffix.lower())
    suffix = (path.with_suffix("") if opener else path).suffix.lower()
    try:
        with (opener or open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            if suffix in (".csv", ".tsv"):
                yield from enumerate(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","), 2)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{path}, line {number}: not a JSON object")
                    yield number, row
    except _DAMAGED as error:
        raise DataError(f"{path} is not CSV, TSV or JSONL in UTF-8, or is damaged: {error}") from error
