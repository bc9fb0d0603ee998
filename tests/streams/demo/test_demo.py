"""The demo: a full run, interrupted runs, and its verdict when the outcome is wrong."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from earlybell.streams.commands.feeds import raw_messages
from earlybell.streams.commands.rows import open_file
from earlybell.streams.dead_letters import letter
from earlybell.streams.demo import sample
from earlybell.streams.demo.screen import Screen
from earlybell.streams.demo.tally import BURST, Tally
from earlybell.streams.records import BadNews, NewsItem, SentimentSignal, decode_news, encode, signal_id, text_hash
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Origin(msgspec.Struct):
    """The message that a dead letter is about."""

    key: bytes | None
    value: bytes | None
    topic: str = "news.raw"
    partition: int = 0
    offset: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


def scored(item: NewsItem, number: int) -> bytes:
    return encode(
        SentimentSignal(
            signal_id=signal_id(item.id, item.revision, text_hash(item.text), "r", "dial=0.50"),
            news_id=item.id, revision=item.revision,
            symbols=item.symbols or [], source=item.source, label="neutral", score=0.0, probabilities={"neutral": 1.0},
            confidence=1.0, published_at=item.published_at, ingested_at=NOON, scored_at=NOON + timedelta(seconds=1),
            queue_ms=1.0, inference_ms=1.0, model="m", model_revision="r", policy="dial=0.50", dial=0.5,
            precision="float32", exit_depth=number % 7, predicted_depth=None, depth_limit=6, tokens=5, tokens_kept=5,
            topic="news.raw", partition=0, offset=number,
        )
    )  # fmt: skip


def played(skip: Callable[[int], bool] = lambda line: False) -> Tally:
    """Return the tally of a correct run, except for the lines to skip."""
    tally = Tally(published=sample.MESSAGES, news_rows=sample.NEWS, signal_rows=sample.SIGNALS)
    for message in raw_messages(open_file(str(sample.FEED))):
        if skip(message.line):
            continue
        if message.line in sample.BROKEN:
            try:
                reason = f"language {decode_news(message.value).language!r} is not supported: the model reads en"
            except BadNews as fault:
                reason = str(fault)
            sent = letter(Origin(message.key, message.value), stage="decode", kind="BadNews", reason=reason)
            tally.add_letter(sent.value, list(sent.headers))
        else:
            tally.add_signal(
                scored(decode_news(message.value), message.line), int(NOON.timestamp() * 1000) + message.line
            )
    return tally


def test_a_correct_run_has_no_differences() -> None:
    tally = played()
    assert tally.complete()
    assert tally.differences() == []
    assert sum(tally.depths.values()) == sample.SIGNALS
    assert set(tally.depths) == set(range(7))
    assert tally.quiet.percentile(0.5) == pytest.approx(sample.MESSAGES / 2, abs=10)
    assert tally.quiet.percentile(0.0) < tally.quiet.percentile(0.99) <= sample.MESSAGES
    assert tally.headline(tally.latest[-1]).startswith("Quillstone closes higher")
    assert len(tally.corrections) == sample.CORRECTIONS
    assert len(tally.scored_headlines()) == sample.SIGNALS
    assert not any("erhöht" in headline for headline in tally.scored_headlines())
    readable = [letter.message for letter in tally.letters]
    assert "(no value: a tombstone)" in readable
    assert any(message.startswith("Kitewell shares resume trading") for message in readable)


@pytest.mark.parametrize(
    ("line", "difference"),
    [(1, "distinct signals: 330, not 331"), (13, "dead letters: 13, not 14"), (235, "dead letters: 13, not 14")],
)
def test_what_is_missing_is_reported(line: int, difference: str) -> None:
    tally = played(lambda number: number == line)
    assert not tally.complete()
    assert difference in tally.differences()


def test_a_letter_for_an_unexpected_reason_is_reported_even_if_the_count_is_right() -> None:
    tally = played(lambda line: line == 235)
    sent = letter(Origin(None, b"?"), stage="decode", kind="BadNews", reason="out of memory")
    tally.add_letter(sent.value, list(sent.headers))
    assert tally.complete()
    assert tally.differences() == ["an unexpected dead letter: out of memory"]


def test_headlines_at_full_speed_count_apart() -> None:
    tally = played()
    item = NewsItem(id=f"{BURST}1", headline="h", published_at=NOON)
    tally.add_signal(scored(item, 1), int(NOON.timestamp() * 1000) + 5)
    assert tally.differences() == []
    assert tally.burst.milliseconds == [5.0]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_the_screen_fits_the_terminal(width: int, height: int) -> None:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True)
    screen = Screen(played(), console)
    screen.enter("playing")
    lines = console.render_lines(screen.render())
    assert len(lines) < height
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    for panel in ("news.raw", "Exit depth", "Signals", "A correction", "14 dead letters"):
        assert panel in text
    empty = Screen(Tally(), console)
    empty.enter("starting")
    empty.enter("loading the model")
    text = "".join(segment.text for line in console.render_lines(empty.render()) for segment in line)
    assert "loading the model" in text
    assert "dead letters" not in text, "a panel appears when it has something to show"


def test_a_surplus_row_is_reported() -> None:
    tally = played()
    tally.signal_rows += 1
    assert tally.complete()
    assert tally.differences() == ["rows in signals: 332, not 331"]


def demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a demo whose processes all have the directory's name in their arguments or environment."""
    servers = {"EARLYBELL_KAFKA_BOOTSTRAP": "127.0.0.1:1", "EARLYBELL_DATABASE_URL": "postgresql://127.0.0.1:1/theirs"}
    return subprocess.Popen(
        [sys.executable, "-m", "earlybell.streams.cli", "demo", *arguments],
        env={**os.environ, **servers, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip


def left_behind(temporary: Path) -> list[str]:
    """Return the processes that have the directory's name in their arguments or environment."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(temporary).encode() in text:
            processes.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return processes


def test_the_demo_shows_everything_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = demo(tmp_path, "--seconds", "3")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert f"{sample.SIGNALS} signals, each with its row, and {len(sample.BROKEN)} dead letters" in output
    for title in (
        "Sentiment by symbol",
        "One story as of two moments",
        "Where the time goes",
        "One dead letter",
        "Speed",
        "Next",
    ):
        assert title in output
    before, after = (line for line in output.splitlines() if line.startswith(("before  ", "after   ")))
    assert "CORRECTED" in after
    assert "CORRECTED" not in before
    assert "\x1b[" not in output, "plain lines when the output is not a terminal"
    assert left_behind(tmp_path) == []
    assert list(tmp_path.glob("earlybell-*")) == []


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        pytest.param("starting a private", signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param("starting both roles", signal.SIGTERM, marks=pytest.mark.nightly),
        ("playing", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, phase: str, number: signal.Signals) -> None:
    process = demo(tmp_path)
    assert process.stdout is not None
    output = ""
    while phase not in output:
        line = process.stdout.readline()
        assert line, f"it ended before: {output}"
        output += line
    time.sleep(0.5)
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)  # a second one must not interrupt the clean-up
    output += process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert left_behind(tmp_path) == []
    assert list(tmp_path.glob("earlybell-*")) == []
