"""Any file of labelled texts, whatever its format, its columns and what it calls its labels; and how it is split.

It knows files and labels; nothing of models, or of what the texts are used for.
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

from earlybell.inference.training.data import DEV_SEED, DataError, Example, is_set_aside

#: More different labels than this are no classes: another column was meant.
MOST_LABELS = 64
_OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError, json.JSONDecodeError, csv.Error)
#: Reviews and articles that were taken from web pages still hold their line breaks.
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFile:
    """A CSV, TSV or JSONL file (plain, or as .gz, .xz or .bz2) and what its columns and labels are called.

    Attributes
    ----------
    label_map
        Names in the file -> names of the model.
    """

    path: Path
    text_column: str = "text"
    label_column: str = "label"
    label_map: Mapping[str, str] = field(default_factory=dict)

    def read(self, labels: Sequence[str] | None = None) -> list[Example]:
        """The texts with their labels.

        Parameters
        ----------
        labels
            A model's, which a row's label must be one of, whatever its case; a number is an index into them. None:
            the labels are those that the file has, after ``label_map``.

        Raises
        ------
        DataError
            If the file or a column is missing, it is damaged, or a label is unknown. Rows without a label or a text
            (null) are left out.
        """
        if not self.path.is_file():
            raise DataError(f"no file at {self.path}")
        known = None if labels is None else self._known(labels)
        renamed = {name.lower(): label for name, label in self.label_map.items()}
        examples = []
        for number, row in _rows(self.path):
            for column in (self.text_column, self.label_column):
                if column not in row:
                    columns = ", ".join(str(name) for name in row)
                    raise DataError(f"{self.path}, row {number}: no column {column!r}; it has {columns}")
            text, given = row[self.text_column], row[self.label_column]
            if given is None or text is None:
                continue
            called = str(given).strip()
            label = renamed.get(called.lower(), called) if known is None else known.get(called.lower())
            if label is None:
                raise DataError(f"{self.path}, row {number}: label {given!r} is none of {', '.join(labels or ())}")
            examples.append(Example(_BREAK.sub(" ", str(text)), label, self.path.name))
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
    """The labels that occur, sorted: the class order of a model that is fitted on these texts.

    Raises
    ------
    DataError
        If they cannot be classes: a single one, or more than ``MOST_LABELS``.
    """
    found = sorted({one.label for one in examples})
    if not 2 <= len(found) <= MOST_LABELS:
        raise DataError(f"{len(found)} different labels ({', '.join(found[:3])} ...): is it the column of the labels?")
    return tuple(found)


def split(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """What to train on and what to choose on: by a hash of the text, so equal texts fall on the same side."""
    train = [one for one in examples if not is_set_aside(one.text, DEV_SEED)]
    dev = [one for one in examples if is_set_aside(one.text, DEV_SEED)]
    if not train or not dev:
        raise DataError(f"{len(examples)} labelled texts are too few to set a tenth aside")
    return train, dev


def drawn(examples: Sequence[Example], count: int, seed: int = 1) -> list[Example]:
    """``count`` of the texts, drawn by ``seed``; 0 or more than there are: all, in their order."""
    if not 0 < count < len(examples):
        return list(examples)
    return [examples[place] for place in sorted(random.Random(seed).sample(range(len(examples)), count))]


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
        raise DataError(f"{path} is neither CSV, TSV nor JSONL in UTF-8, or damaged: {error}") from error
