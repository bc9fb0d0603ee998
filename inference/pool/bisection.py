"""Track one window through the pool: which spans of it remain to be scored, and the outcome of the others.

Pure bookkeeping: it knows nothing of processes, sockets or clocks. A span that a worker fails on is halved until the
faulty text is alone, so k bad texts among n cost about k·log2(n) failures, not n.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from earlybell.inference.pool.worker import Answered, Failed
from earlybell.inference.predictions import ModelDescription, Predictions

#: The smallest share of the time-out that a span gets, however short it is.
MIN_TIMEOUT_SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class Died:
    """The worker died while it held the span."""

    reason: str
    hung: bool = False
    shared: bool = False  # with others, one of which may have killed it


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of scoring a span, and the scorer that produced it."""

    event: Answered | Failed | Died
    description: ModelDescription
    generation: int  # counts hot swaps


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Exactly one prediction or one fault for each text of a window."""

    predictions: Predictions  # a row for each text that is not in `faults`, in the window's order
    descriptions: Sequence[ModelDescription]  # of each row's scorer; of one model, even across a hot swap
    faults: Mapping[int, str]  # index in the window -> why that text cannot be scored, in one sentence
    queue_s: float  # everything but inference: queueing, transfer, retries
    inference_s: float  # time in the scorer


class WindowBisection:
    """The spans of a window that remain to be scored.

    Parameters
    ----------
    texts
        The window.
    kills_per_text
        How many workers must die while scoring a text alone before it counts as faulty: one death may be a coincidence.
    """

    def __init__(self, texts: Sequence[str], kills_per_text: int) -> None:
        self._texts = texts
        self._kills_per_text = kills_per_text
        self._pending = deque([range(len(texts))])
        self._answered: dict[range, tuple[Answered, ModelDescription]] = {}
        self._kills: Counter[range] = Counter()
        self._generation: int | None = None
        self._hung = False
        self.faults: dict[int, str] = {}

    def next_span(self) -> range | None:
        """Return the span to score next, or None once every text has a prediction or a fault.

        Breadth first: a success between two failing halves keeps restarts from backing off.
        """
        return self._pending[0] if self._pending else None

    def texts(self, span: range) -> Sequence[str]:
        """Return the texts of the span."""
        return self._texts[span.start : span.stop]

    def timeout_share(self, span: range) -> float:
        """Return the share of the time-out that the span gets: all of it until the window has hung a worker.

        From then on it is the span's share of the characters, so that isolating one text does not take log2(n) full
        time-outs.
        """
        if not self._hung:
            return 1.0
        characters = sum(map(len, self._texts))
        return max(MIN_TIMEOUT_SHARE, sum(map(len, self.texts(span))) / characters if characters else 1.0)

    def record(self, span: range, outcome: Outcome) -> None:
        """Record the outcome of the span that `next_span` returned."""
        if self._generation not in {None, outcome.generation}:
            # One window, one model: after a hot swap the other spans are scored again by the new model.
            self._answered.clear()
            self._kills.clear()
            self.faults.clear()
            others = (range(span.start), range(span.stop, len(self._texts)))
            self._pending = deque([span, *(other for other in others if other)])
        self._generation = outcome.generation
        self._pending.popleft()
        match outcome.event:
            case Answered() as answered:
                self._answered[span] = answered, outcome.description
            case _ if len(span) > 1:
                middle = len(span) // 2
                self._pending += (span[:middle], span[middle:])
            case Failed(reason=reason):
                self.faults[span.start] = reason
            case Died(reason=reason, shared=shared):
                self._kills[span] += not shared
                if self._kills[span] < self._kills_per_text:
                    self._pending.append(span)
                else:
                    times = "once" if self._kills[span] == 1 else f"{self._kills[span]} times"
                    self.faults[span.start] = f"the text killed the worker that scored it alone, {times}: {reason}"
        if isinstance(outcome.event, Died):
            self._hung |= outcome.event.hung

    def predictions(self, classes: tuple[str, ...]) -> Predictions:
        """Return the predictions of all texts without a fault, in the window's order."""
        return Predictions.concatenate([answered.predictions for answered, _ in self._in_order()], classes)

    def descriptions(self) -> list[ModelDescription]:
        """Return the description of each prediction's scorer: workers of one pool may differ in arithmetic."""
        return [description for answered, description in self._in_order() for _ in range(len(answered.predictions))]

    @property
    def inference_s(self) -> float:
        """Seconds in the scorer, over the spans that succeeded."""
        return sum(answered.inference_s for answered, _ in self._answered.values())

    def _in_order(self) -> list[tuple[Answered, ModelDescription]]:
        return [self._answered[span] for span in sorted(self._answered, key=lambda span: span.start)]
