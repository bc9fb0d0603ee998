"""The demo's display: what happens, panel by panel, on a terminal; elsewhere a line every two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from earlybell.streams.commands.lines import plain
from earlybell.streams.commands.readable import CONTRACT
from earlybell.streams.demo import sample
from earlybell.streams.demo.tally import LATEST_SIGNALS, Tally

PLAIN_LINE_EVERY_S = 2.0
PLAIN_WIDTH = 140
_STYLES = {"positive": "green", "negative": "red"}
#: One shade a depth, from the first to the deepest.
_SHADES = ("cyan", "blue", "magenta", "yellow", "green", "red", "white")
TITLE = "Earlybell: a day of invented news, through the whole pipeline, on this machine"
#: Lines of the screen that are not the latest signals; what is left belongs to them.
_OTHER_LINES = 20
#: Dead letters that are shown, where there is room for many lines and where there is not.
_LETTERS, _FEW_LETTERS = 6, 2


@dataclass(slots=True)
class Step:
    """A step of the demo, and when it began and ended (of the display's clock)."""

    text: str
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a query, as a table, and what it means in a few words."""

    title: str
    meaning: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Screen:
    """Displays a tally until it is closed."""

    def __init__(self, tally: Tally, console: Console | None = None) -> None:
        """Use the given console, else the terminal if there is one."""
        self._tally = tally
        self._started = self._printed = time.monotonic()
        self._steps: list[Step] = []
        self._spinner = Spinner("dots", style="cyan")
        # A pipe has no width: use one at which no table is cut.
        self.console = console or Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, transient=False, get_renderable=self.render)
            self._live.start()
        else:
            print(TITLE, flush=True)
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

    def print(self, text: str = "") -> None:
        """Print lines without markup."""
        self.console.print(text, markup=False)

    def enter(self, step: str) -> None:
        """Show that a step of the demo begins."""
        now = self._elapsed()
        if self._steps:
            self._steps[-1].ended = now
        self._steps.append(Step(step, now))
        if self._live is None:
            print(f"{now:5.1f} s  {step}", flush=True)

    def tick(self) -> None:
        """Show progress where the display does not refresh itself. Called often."""
        if self._live is None and self._tally.published and time.monotonic() - self._printed >= PLAIN_LINE_EVERY_S:
            self._printed = time.monotonic()
            print(f"{self._elapsed():5.1f} s  {self._summary()}", flush=True)

    def render(self) -> RenderableType:
        """Return the whole screen."""
        tally, title = self._tally, Text(TITLE, style="bold")
        if not tally.signal_ids:
            return Group(title, Text(), *self._step_lines())
        return Group(title, self._now(), *self.panels())

    def panels(self) -> Iterator[RenderableType]:
        """Yield what has been seen, in as many lines as the console has."""
        tally = self._tally
        signals = max(3, min(LATEST_SIGNALS, self.console.height - _OTHER_LINES))
        dead = _LETTERS if signals == LATEST_SIGNALS else _FEW_LETTERS
        yield from flow(tally)
        yield from depths(tally, self.console.width)
        yield from latest(tally, signals)
        yield from correction(tally)
        yield from letters(tally, dead)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _summary(self) -> str:
        tally = self._tally
        return (
            f"published {tally.published + tally.burst_published:,}, "
            f"signals {len(tally.signal_ids) + len(tally.burst):,} ({tally.per_second():,.0f}/s), "
            f"dead letters {len(tally.letters)}, rows news {tally.news_rows:,} signals {tally.signal_rows:,}"
        )

    def _now(self) -> RenderableType:
        step = self._steps[-1].text if self._steps else "starting"
        self._spinner.update(text=Text.assemble(step, (f"  ({self._elapsed():.0f} s since the start)", "dim")))
        return self._spinner

    def _step_lines(self) -> Iterator[RenderableType]:
        """Yield the steps so far, while there are no signals to show yet."""
        for step in self._steps[:-1]:
            yield Text.assemble(("✓ ", "green"), step.text, (f"  {(step.ended or 0) - step.began:.1f} s", "dim"))
        yield self._now()
        yield Text()
        yield Text.assemble(
            (f"Then {sample.MESSAGES} messages: {sample.STORIES} stories, {sample.CORRECTIONS} corrections, ", "dim"),
            (f"{sample.DUPLICATES} repetitions and {len(sample.BROKEN)} that are broken.", "dim"),
        )


def flow(tally: Tally) -> Iterator[RenderableType]:
    """Yield the way of a story, with how many have come how far."""
    rate, texts = tally.per_second(), max(1, tally.depths.total())
    layers = sum(depth * count for depth, count in tally.depths.items()) / texts
    stations = (
        ("news.raw", f"{tally.published + tally.burst_published:,}"),
        ("model", f"{rate:,.0f}/s" if rate else f"{layers:.1f} layers"),
        ("news.sentiment", f"{len(tally.signal_ids) + len(tally.burst):,}"),
        ("Postgres", f"{tally.signal_rows:,} rows"),
    )
    widths = [max(len(name), len(count)) for name, count in stations]
    arrows = " ─▶ ".join(f"{name:^{width}}" for (name, _), width in zip(stations, widths, strict=True))
    counts = "    ".join(f"{count:^{width}}" for (_, count), width in zip(stations, widths, strict=True))
    yield Text()
    yield Text(f"  {arrows}")
    yield Text.assemble((f"  {counts}", "bold"))


def depths(tally: Tally, width: int) -> Iterator[RenderableType]:
    """Yield how many texts exited at each depth, as one bar."""
    total = max(1, tally.depths.total())
    bar, legend = Text("  "), Text("  ")
    for depth in range(tally.depth_limit + 1):
        share, shade = tally.depths[depth] / total, _SHADES[depth % len(_SHADES)]
        bar.append("█" * round(share * min(60, width - 4)), style=shade)
        if share:
            legend.append("■ ", style=shade)
            legend.append(f"{depth}: {share:.0%}  ", style="dim")
    yield Text()
    yield _heading("Exit depth", f"the model stops as soon as it is sure, after 0 to {tally.depth_limit} layers")
    yield bar
    yield legend


def latest(tally: Tally, rows: int) -> Iterator[RenderableType]:
    """Yield the latest signals, as many as there is room for."""
    yield Text()
    yield _heading("Signals", "how good or bad a headline is for its company, from -1 to +1")
    table = Table.grid(padding=(0, 2, 0, 0))
    for signal in list(tally.latest)[-rows:]:
        style = _STYLES.get(signal.label, "dim")
        symbols = Text(",".join(signal.symbols)[:9], style="cyan")
        score = Text(f"  {signal.score:+.2f}", style=style)
        table.add_row(score, symbols, _cut(tally.headline(signal)))
    yield table


def correction(tally: Tally) -> Iterator[RenderableType]:
    """Yield the correction that changed a score the most."""
    if tally.corrections:
        story = max(tally.corrections, key=lambda correction: correction.change)
        yield Text()
        yield _heading("A correction", "a new revision; what was known before stays known")
        table = Table.grid(padding=(0, 2, 0, 0))
        for score, headline in ((story.before_score, story.before), (story.after_score, story.after)):
            style = _STYLES["positive" if score > 0 else "negative"]
            table.add_row(Text(f"  {score:+.2f}", style=style), _cut(headline))
        yield table


def letters(tally: Tally, rows: int) -> Iterator[RenderableType]:
    """Yield the latest dead letters and their reasons, at most `rows` of them."""
    if tally.letters:
        yield Text()
        yield _heading(f"{len(tally.letters)} dead letters", "broken messages are kept, and stop nothing")
        table = Table.grid(padding=(0, 2, 0, 2), pad_edge=False)
        for letter in tally.letters[-rows:]:
            table.add_row(
                _cut(f"  {plain(letter.message)[:30]}"),
                _cut(plain(letter.reason).removeprefix(CONTRACT), "dim"),
            )
        yield table


def result_lines(result: Result) -> Iterator[RenderableType]:
    """Yield the result of a query as a heading and a table."""
    yield Text()
    yield _heading(result.title, result.meaning)
    header = any(result.columns)
    table = Table(*result.columns, box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=header)
    for row in result.rows:
        table.add_row(*(_cut(cell) for cell in row))
    yield table


def _heading(title: str, meaning: str) -> Text:
    return Text.assemble((title, "bold"), (f"  {meaning}", "dim"), no_wrap=True, overflow="ellipsis")


def _cut(text: str, style: str = "") -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis", style=style)
