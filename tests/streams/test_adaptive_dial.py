"""The adaptive dial in a simulated queue: a burst is absorbed, and accuracy comes back when it is over."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlybell.streams.adaptive_dial import AdaptiveDial
from tests.benchmarks.simulated_queue import Simulated, simulate

OBJECTIVE_S = 0.25
BASE = 0.5
MOST_LOST = 0.02


class Position(NamedTuple):
    dial: float
    mean_depth: float
    accuracy_lost: float


#: The dial from full depth to almost none, at the cost of three points in the end.
POSITIONS = [Position(place / 20, 6 * (1 - place / 20) ** 1.6, 0.03 * (place / 20) ** 4) for place in range(21)]
CURVE = [(position.dial, position.accuracy_lost) for position in POSITIONS]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def burst(most_lost: float) -> Simulated:
    """Half of the capacity at the base dial, then one and a half times of it, then half again."""
    return simulate([(5.0, 0.5), (20.0, 1.5), (60.0, 0.5)], POSITIONS, BASE, OBJECTIVE_S, most_lost)


def test_a_burst_that_the_fastest_position_can_take_is_held_near_the_objective() -> None:
    fixed, adaptive = burst(0.0), burst(MOST_LOST)
    assert fixed.percentile(99, since=10, until=25) > 10 * OBJECTIVE_S, "without the controller the queue grows"
    assert adaptive.percentile(99, since=10, until=25) < 2 * OBJECTIVE_S
    assert adaptive.dial_at(4.9) == BASE
    assert adaptive.dial_at(20.0) > BASE
    assert adaptive.dial_at(84.0) == BASE, "and comes back"


def test_it_stays_where_it_is_without_a_queue() -> None:
    assert set(simulate([(30.0, 0.7)], POSITIONS, BASE, OBJECTIVE_S, MOST_LOST).dials) == {BASE}


@given(latencies=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=200), most=st.floats(0, 0.05))
def test_it_never_loses_more_accuracy_than_allowed(latencies: list[tuple[float, float]], most: float) -> None:
    clock = Clock()
    controller = AdaptiveDial(CURVE, BASE, OBJECTIVE_S, most, clock=clock)
    lost = dict(CURVE)
    for step, latency in latencies:
        clock.now += step
        before = controller.dial
        controller.observe(latency)
        assert controller.dial >= BASE
        assert controller.dial == BASE or lost[controller.dial] <= most
        if latency <= 0.4 * OBJECTIVE_S:
            assert controller.dial <= before


@pytest.mark.parametrize("most_lost", [0.0, 1.0])
def test_a_curve_of_one_point_has_nowhere_to_go(most_lost: float) -> None:
    controller = AdaptiveDial(((0.0, 0.0),), 0.0, OBJECTIVE_S, most_lost)
    for _ in range(10):
        controller.observe(100.0)
    assert controller.dial == 0.0
