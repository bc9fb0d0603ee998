"""A table that grows line by line: one line a row at any width, in columns that do not move.

Also the notice line, which names what a command is waiting for. Knows nothing of what is printed.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from rich.cells import cell_len, set_cell_size

_RESET, _DIM, _CLEAR = "\x1b[0m", "\x1b[2m", "\r\x1b[2K"
#: The colours of labels, the same wherever they appear.
STYLES = {"positive": "\x1b[32m", "negative": "\x1b[31m", "dim": _DIM}
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a fixed width; the last one of a table takes what is left.

    Attributes
    ----------
    from_width
        The column is left out where the terminal is narrower than this.
    """

    title: str
    width: int = 0
    right: bool = False
    from_width: int = 0


class GrowingTable:
    """Prints rows under a heading. Off a terminal nothing is cut and nothing is coloured."""

    def __init__(self, columns: Sequence[Column], out: IO[str] | None = None) -> None:
        self._columns = columns
        self._out = out or sys.stdout
        self._headed = False

    def row(self, cells: Sequence[tuple[str, str]]) -> None:
        """Print a row, and the heading before the first.

        Parameters
        ----------
        cells
            The text and the style (a key of `STYLES`, or empty) of each column.
        """
        if not self._headed:
            self._headed = True
            self._print([(column.title, "dim") for column in self._columns])
        self._print(cells)

    def _print(self, cells: Sequence[tuple[str, str]]) -> None:
        terminal = self._out.isatty()
        # Asked for each row, since a window may be resized.
        width = shutil.get_terminal_size().columns if terminal else 0
        shown = [
            (column, plain(text), style)
            for column, (text, style) in zip(self._columns, cells, strict=True)
            if not terminal or width >= column.from_width
        ]
        parts, left = [], width
        for number, (column, text, style) in enumerate(shown):
            last = number == len(shown) - 1
            if not last or terminal:
                size = max(left, 0) if last else column.width
                text = fit(text, size, right=column.right, pad=not last)  # noqa: PLW2901
            left -= cell_len(text) + len(_GAP)
            parts.append(f"{STYLES[style]}{text}{_RESET}" if style in STYLES and coloured(self._out) else text)
        print(_GAP.join(parts).rstrip(), file=self._out)


class Notice:
    """A line on the standard error that names what a command is waiting for.

    On a terminal it disappears with the next output; elsewhere it is an ordinary line.
    """

    def __init__(self) -> None:
        self._shown = False
        self._terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Show this text instead of the one before."""
        self.clear()
        if not self._terminal:
            print(text, file=sys.stderr, flush=True)
            return
        line = fit(text, shutil.get_terminal_size().columns - 1, pad=False)
        print(f"{_DIM}{line}{_RESET}" if coloured(sys.stderr) else line, end="", file=sys.stderr, flush=True)
        self._shown = True

    def clear(self) -> None:
        """Remove the text, before something else is printed."""
        if self._shown:
            print(_CLEAR, end="", file=sys.stderr, flush=True)
            self._shown = False


def coloured(stream: IO[str]) -> bool:
    """Return whether to write colours to this stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain(text: str) -> str:
    """Return the text on one line, without control characters: a headline must not command a terminal."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) not in {"Cc", "Cf", "Cs"})


def fit(text: str, width: int, *, right: bool = False, pad: bool = True) -> str:
    """Return the text in exactly `width` cells of a terminal, or in at most that many without `pad`."""
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1).rstrip() + "…" if width > 1 else "…"[:width]
    if not pad:
        return text
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank
