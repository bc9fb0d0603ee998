"""How `earlybell score` prints what it scored: as a table for people, as JSON lines or as CSV for programs.

Every form has the number of the input line, so that input and output can be joined.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from earlybell.signal_fields import LABELS
from earlybell.streams.commands.formats import ScoreFormat
from earlybell.streams.commands.lines import Column, GrowingTable
from earlybell.streams.records import SentimentSignal, encode

COLUMNS = (
    Column("line", 5, right=True),
    Column("score", 5, right=True),
    Column("label", 8, from_width=60),
    Column("conf.", 5, right=True, from_width=100),
    Column("depth", 5, right=True, from_width=100),
    Column("text"),
)


@dataclass(frozen=True, slots=True)
class Scored:
    """A line of the input and its signal."""

    line: int
    text: str
    signal: SentimentSignal


class Printer(Protocol):
    """Prints the lines of a window, in the order of the input."""

    def write(self, rows: Sequence[Scored]) -> None:
        """Print the rows, and flush."""
        ...


class JsonLines:
    """A JSON object a line: the signal, and before its own fields ``line`` and ``text``."""

    def write(self, rows: Sequence[Scored]) -> None:
        """Print the rows, and flush."""
        out = sys.stdout.buffer
        text = msgspec.json.encode
        out.writelines(b'{"line":%d,"text":%b,%b\n' % (r.line, text(r.text), encode(r.signal)[1:]) for r in rows)
        out.flush()


class Csv:
    """CSV with a header, for a spreadsheet or a data frame; the symbols of a row are separated by spaces."""

    def __init__(self) -> None:
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._writer.writerow(
            ("line", "label", "score", "confidence", *LABELS, "symbols", "news_id", "signal_id", "exit_depth", "text")
        )

    def write(self, rows: Sequence[Scored]) -> None:
        """Print the rows, and flush."""
        for row in rows:
            signal = row.signal
            probabilities = (round(signal.probabilities[label], 6) for label in LABELS)
            self._writer.writerow(
                (
                    *(row.line, signal.label, round(signal.score, 6), round(signal.confidence, 6), *probabilities),
                    *(" ".join(signal.symbols), signal.news_id, signal.signal_id, signal.exit_depth, row.text),
                )
            )
        sys.stdout.flush()


class Table:
    """A line a text, for a terminal."""

    def __init__(self) -> None:
        self._table = GrowingTable(COLUMNS)

    def write(self, rows: Sequence[Scored]) -> None:
        """Print the rows, and flush."""
        for row in rows:
            signal = row.signal
            self._table.row(
                [
                    (str(row.line), "dim"),
                    (f"{signal.score:+.2f}", signal.label),
                    (signal.label, signal.label),
                    (f"{signal.confidence:.2f}", ""),
                    (f"{signal.exit_depth}/{signal.depth_limit}", ""),
                    (row.text, ""),
                ]
            )
        sys.stdout.flush()


@dataclass(slots=True)
class Summary:
    """What became of the lines of the input."""

    labels: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    blank: int = 0

    @property
    def texts(self) -> int:
        """The number of texts that were scored."""
        return self.labels.total()

    def missing(self) -> str:
        """Return how many lines have no row, in one line; empty if all have one."""
        parts = []
        if self.faults:
            parts.append(f"{_lines(self.faults)} could not be scored")
        if self.blank:
            parts.append(f"{self.blank} blank {'line was' if self.blank == 1 else 'lines were'} skipped")
        if not self.texts and not self.faults:
            parts.append("there was no text to score")
        return ", ".join(parts)

    def counts(self) -> str:
        """Return how many texts have which label, in one line."""
        labels = ", ".join(f"{self.labels[label]:,} {label}" for label in reversed(LABELS))
        return f"{self.texts:,} text{'' if self.texts == 1 else 's'}: {labels}"


def printer(output: ScoreFormat | None) -> Printer:
    """Return the printer of this form; by default a table on a terminal, and JSON lines elsewhere."""
    chosen = output or ("table" if sys.stdout.isatty() else "json")
    return Csv() if chosen == "csv" else JsonLines() if chosen == "json" else Table()


def _lines(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"
