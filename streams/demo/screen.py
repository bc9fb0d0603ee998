"""The demo's display: a live table on a terminal, otherwise a line every two seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from earlybell.streams.demo import sample
from earlybell.streams.demo.results import Result
from earlybell.streams.demo.tally import Tally

PLAIN_LINE_EVERY_S = 2.0
PLAIN_WIDTH = 140
_STYLES = {"positive": "green", "negative": "red"}
_BAR_WIDTH = 24
_LATEST_LETTERS = 5


class Screen:
    """Displays a tally until it is closed."""

    def __init__(self, tally: Tally) -> None:
        """Use the terminal if there is one."""
        self._tally = tally
        self._started = self._printed = time.monotonic()
        self._phase = ""
        # A pipe has no width: use one at which no table is cut.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        self._live = (
            Live(console=self.console, refresh_per_second=8, transient=False, get_renderable=self._render)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop updating; later output is printed below."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def print(self, text: str) -> None:
        """Print lines without markup."""
        self.console.print(text, markup=False)

    def show(self, result: Result) -> None:
        """Print the result of a query."""
        self.print(f"\n{result.title}")
        table = Table(*result.columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
        for row in result.rows:
            table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
        self.console.print(table)

    def enter(self, phase: str) -> None:
        """Show that a phase of the demo begins."""
        self._phase = phase
        if self._live is None:
            print(f"{self._elapsed():5.1f} s  {phase}", flush=True)

    def tick(self) -> None:
        """Show progress where the display does not refresh itself. Called often."""
        if self._live is None and time.monotonic() - self._printed >= PLAIN_LINE_EVERY_S:
            self._printed = time.monotonic()
            print(f"{self._elapsed():5.1f} s  {self._summary()}", flush=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _summary(self) -> str:
        tally = self._tally
        return (
            f"published {tally.published}/{sample.MESSAGES}, signals {len(tally.signal_ids)} "
            f"({tally.per_second():.0f}/s), dead letters {len(tally.letters)}, "
            f"rows news {tally.news_rows} signals {tally.signal_rows}"
        )

    def _render(self) -> RenderableType:
        head = Text.assemble((f"{self._elapsed():5.1f} s  ", "dim"), (self._phase, "bold"))
        return Group(
            head, Text(self._summary()), depth_histogram(self._tally), latest(self._tally), letters(self._tally)
        )


def depth_histogram(tally: Tally) -> Table:
    """Draw how many texts exited at each depth."""
    table = Table(title="exit depth", title_justify="left", box=None, padding=(0, 1), show_header=False)
    largest = max(tally.depths.values(), default=1)
    for depth in range(tally.depth_limit + 1):
        count = tally.depths[depth]
        bar = "█" * round(_BAR_WIDTH * count / largest)
        table.add_row(f"{depth:>2}", f"[cyan]{bar:<{_BAR_WIDTH}}[/]", f"{count:>4}")
    return table


def latest(tally: Tally) -> Table:
    """Return a table of the latest signals."""
    table = Table("score", "label", "symbols", "headline", title="latest signals", title_justify="left", box=None)
    for signal in tally.latest:
        style = _STYLES.get(signal.label, "dim")
        headline = Text(escape(tally.headline(signal)[0]), no_wrap=True)
        table.add_row(f"{signal.score:+.2f}", f"[{style}]{signal.label}[/]", ",".join(signal.symbols), headline)
    return table


def letters(tally: Tally) -> Table:
    """Return a table of the latest dead letters and their reasons."""
    table = Table("message", "reason", title="dead letters", title_justify="left", box=None)
    for letter in tally.letters[-_LATEST_LETTERS:]:
        table.add_row(Text(letter.value[:44], no_wrap=True), Text(letter.reason, no_wrap=True))
    return table
