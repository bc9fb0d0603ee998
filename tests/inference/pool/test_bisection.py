"""A window's bookkeeping, without processes: which spans are retried, and the result."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.pool.bisection import Died, Outcome, WindowBisection
from earlybell.inference.pool.worker import Answered, Failed
from earlybell.inference.predictions import ModelDescription, Predictions

FIRST = ModelDescription("m", "first", ("a", "b"), ("en",), 6, 128, 0.5, "dial=0.50", "float32", "cpu", "float32")
SECOND = replace(FIRST, model_revision="second")


def answered(numbers: range, description: ModelDescription = FIRST, generation: int = 1) -> Outcome:
    n = len(numbers)
    tokens = np.array(numbers, np.int32)
    predictions = Predictions(
        np.zeros((n, 2), np.float32),
        np.ones(n, np.int16),
        np.zeros(n, np.float32),
        tokens,
        tokens,
        np.ones(n, np.float32),
        description.labels,
    )
    return Outcome(Answered(predictions, 0.5), description, generation)


def failed(generation: int = 1) -> Outcome:
    return Outcome(Failed("ValueError: no", "ValueError", "here:1", False), FIRST, generation)


def died(hung: bool = False) -> Outcome:
    return Outcome(Died("died of SIGKILL", hung), FIRST, 1)


def run(window: WindowBisection, killing: set[int], failing: set[int]) -> tuple[int, int]:
    """Drive the window to its end; return the number of deaths and of attempts."""
    deaths = attempts = 0
    while (span := window.next_span()) is not None:
        attempts += 1
        if killing & set(span):
            deaths += 1
            window.record(span, died())
        elif failing & set(span):
            window.record(span, failed())
        else:
            window.record(span, answered(span))
    return deaths, attempts


@given(st.data(), st.integers(1, 200), st.integers(1, 3))
def test_each_text_has_one_prediction_or_one_fault(data: st.DataObject, n: int, kills: int) -> None:
    bad = data.draw(st.sets(st.integers(0, n - 1), max_size=5))
    killing = data.draw(st.sets(st.sampled_from(sorted(bad)))) if bad else set()
    window = WindowBisection(["x"] * n, kills)
    deaths, _ = run(window, killing, bad - killing)
    assert set(window.faults) == bad
    assert window.predictions(("no", "yes")).tokens.tolist() == [i for i in range(n) if i not in bad]
    assert deaths <= len(killing) * (math.ceil(math.log2(n)) + kills)


def test_a_single_death_makes_no_text_faulty() -> None:
    window = WindowBisection(["a"], kills_per_text=2)
    span = window.next_span()
    assert span is not None
    window.record(span, died())
    assert window.next_span() == span
    window.record(span, answered(span))
    assert window.next_span() is None
    assert not window.faults


def test_after_a_hot_swap_mid_window_the_new_model_scores_all_of_it() -> None:
    window = WindowBisection(["a", "b", "c", "d"], kills_per_text=2)
    window.record(range(4), failed())
    window.record(range(2), answered(range(2)))
    window.record(range(2, 4), failed())
    window.record(range(2, 3), failed())  # a fault under the first model
    window.record(range(3, 4), answered(range(3, 4), SECOND, generation=2))
    assert window.next_span() == range(3)
    window.record(range(3), answered(range(3), SECOND, generation=2))
    assert window.next_span() is None
    assert not window.faults
    assert window.predictions(("no", "yes")).tokens.tolist() == [0, 1, 2, 3]


def test_each_prediction_keeps_its_own_scorers_description() -> None:
    float32, int8 = FIRST, replace(FIRST, arithmetic="int8.2")
    window = WindowBisection(["a", "b", "c", "d"], kills_per_text=2)
    window.record(range(4), failed())
    window.record(range(2), failed())
    window.record(range(2, 4), answered(range(2, 4), int8))
    window.record(range(1), failed())
    window.record(range(1, 2), answered(range(1, 2), float32))
    assert window.next_span() is None
    assert window.predictions(("no", "yes")).tokens.tolist() == [1, 2, 3]
    assert window.descriptions() == [float32, int8, int8]


def test_after_a_hang_a_span_gets_its_share_of_the_timeout_by_characters() -> None:
    window = WindowBisection(["long " * 60, *["x"] * 100], kills_per_text=1)
    assert window.timeout_share(range(101)) == 1
    window.record(range(101), died(hung=True))
    assert window.timeout_share(range(50)) == (300 + 49) / 400
    assert window.timeout_share(range(60, 101)) == 1 / 8
