"""A growing table and the notice line: one line a row at any width, and no text commands the terminal."""

from __future__ import annotations

import io
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from earlybell.streams.commands.lines import Column, GrowingTable, fit, plain

COLUMNS = (Column("UTC", 8), Column("label", 8, from_width=60), Column("headline"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(width: int, headline: str, monkeypatch: pytest.MonkeyPatch, out: io.StringIO) -> list[str]:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    monkeypatch.setenv("NO_COLOR", "1")
    table = GrowingTable(COLUMNS, out)
    for _ in range(2):
        table.row([("09:00:00", "dim"), ("negative", "negative"), (headline, "")])
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 59, 60, 80, 200])
def test_a_row_is_one_line_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    headline = "Veridian faces claims\nfrom shops 東京株式市場 " * 9
    lines = printed(width, headline, monkeypatch, Terminal())
    assert len(lines) == 3, "the heading comes once"
    assert all(cell_len(line) <= width for line in lines)
    assert ("negative" in lines[1]) == (width >= 60)
    assert lines[1].endswith("…")


def test_off_a_terminal_nothing_is_cut_or_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(20, "a long headline " * 20, monkeypatch, io.StringIO())
    assert lines[1].endswith("headline")
    assert "negative" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_a_headline_cannot_command_the_terminal() -> None:
    assert plain("\x1b[2J\x9b31mShares\tfall\r\n\u202etwice") == "[2J31mShares fall twice"


@given(st.text(), st.integers(0, 40))
def test_text_fits_exactly(text: str, width: int) -> None:
    shown = plain(text)
    assert cell_len(fit(shown, width)) == width
    assert cell_len(fit(shown, width, pad=False)) <= width
