"""The account of a soak sees what it is there to see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from earlybell.streams.records import decode_signal
from tests.faults.account import Output, compare
from tests.faults.load import Input

SIGNAL = decode_signal((Path(__file__).parents[1] / "streams/released/SentimentSignal-2.json").read_bytes())
STORY = (SIGNAL.news_id, SIGNAL.revision)
OTHER = ("another", 1)
GIVEN = Input({STORY}, {b"broken"})
#: A signal and a letter may be sent twice.
WELL = Output({"news": [STORY], "signals": [STORY]}, {SIGNAL.signal_id}, [SIGNAL, SIGNAL], [b"broken", b"broken"])


def test_an_account_without_faults_is_true() -> None:
    assert compare(GIVEN, WELL)


@pytest.mark.parametrize(
    ("column", "output"),
    [
        ("lost", replace(WELL, rows={"news": [], "signals": [STORY]})),
        ("lost", replace(WELL, signals=[], stored_signals=set())),
        ("lost", replace(WELL, letters=[])),
        ("doubled", replace(WELL, rows={"news": [STORY], "signals": [STORY, STORY]})),
        ("wrong", replace(WELL, rows={"news": [STORY, OTHER], "signals": [STORY]})),
        ("wrong", replace(WELL, stored_signals={SIGNAL.signal_id, "f" * 32})),
        ("wrong", replace(WELL, signals=[SIGNAL, msgspec.structs.replace(SIGNAL, probabilities=(0.0, 0.0, 1.0))])),
        ("wrong", replace(WELL, signals=[SIGNAL, msgspec.structs.replace(SIGNAL, signal_id="f" * 32)])),
        ("wrong", replace(WELL, letters=[b"broken", b"a story"])),
    ],
)
def test_a_fault_is_counted_where_it_belongs(column: str, output: Output) -> None:
    found = compare(GIVEN, output)
    assert not found
    assert [name for name in ("lost", "doubled", "wrong") if getattr(found, name)] == [column]
