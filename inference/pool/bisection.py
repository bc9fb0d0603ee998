"""One window on its way through the pool: which parts of it are still to be scored, and what came of the others.

Pure bookkeeping: it knows nothing of processes, sockets or clocks. A part that a worker cannot get through is halved
until the text at fault stands alone, so k bad texts among n cost about k·log2(n) failures, not n.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from earlybell.inference.pool.worker import Answered, Failed
from earlybell.inference.predictions import ModelDescription, Predictions

#: However small a part is, it keeps this share of the window's patience.
LEAST_PATIENCE = 1 / 8


@dataclass(frozen=True, slots=True)
class Died:
    """The worker died while it scored the part."""

    reason: str
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part, and under which scorer."""

    event: Answered | Failed | Died
    description: ModelDescription
    generation: int  # counts the hot swaps


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Exactly one answer or one fault for each text of a window."""

    description: ModelDescription  # of the scorer that answered; one for the whole window, also across a hot swap
    predictions: Predictions  # a row for each text that is not in `faults`, in the window's order
    faults: Mapping[int, str]  # position in the window: one sentence of why that text cannot be scored
    queue_s: float  # everything but inference: waiting for a worker, the way there and back, what had to be run again
    inference_s: float  # in the scorer


class WindowBisection:
    """Which spans of a window are still to be scored.

    Parameters
    ----------
    texts
        The window.
    kills_per_text
        So many workers have to die of a text that they score alone before it is at fault: one death may be chance.
    """

    def __init__(self, texts: Sequence[str], kills_per_text: int) -> None:
        self._texts = texts
        self._kills_per_text = kills_per_text
        self._pending = deque([range(len(texts))])
        self._answers: dict[range, Answered] = {}
        self._kills: Counter[range] = Counter()
        self._generation: int | None = None
        self._hung = False
        self.faults: dict[int, str] = {}

    def next_span(self) -> range | None:
        """The span that is to be scored next, or None when every text has its answer or its fault.

        Breadth first: between two halves that fail lies one that is answered, which keeps restarts from backing off.
        """
        return self._pending[0] if self._pending else None

    def texts(self, span: range) -> Sequence[str]:
        """The texts of the span."""
        return self._texts[span.start : span.stop]

    def patience(self, span: range) -> float:
        """Share of the time-out that the span is given: all of it, until the window has hung a worker once.

        After that its share of the characters, so that finding one text among many does not take log2(n) time-outs.
        """
        if not self._hung:
            return 1.0
        whole = sum(map(len, self._texts))
        return max(LEAST_PATIENCE, sum(map(len, self.texts(span))) / whole if whole else 1.0)

    def record(self, span: range, outcome: Outcome) -> None:
        """Note what became of the span that `next_span` gave."""
        if self._generation not in {None, outcome.generation}:
            # One window, one model: what the model before a hot swap said of the other spans is asked again.
            self._answers.clear()
            self._kills.clear()
            self.faults.clear()
            rest = (range(span.start), range(span.stop, len(self._texts)))
            self._pending = deque([span, *(part for part in rest if part)])
        self._generation = outcome.generation
        self._pending.popleft()
        match outcome.event:
            case Answered() as answer:
                self._answers[span] = answer
            case _ if len(span) > 1:
                middle = len(span) // 2
                self._pending += (span[:middle], span[middle:])
            case Failed(reason=reason):
                self.faults[span.start] = reason
            case Died(reason=reason):
                self._kills[span] += 1
                if self._kills[span] < self._kills_per_text:
                    self._pending.append(span)
                else:
                    times = "once" if self._kills[span] == 1 else f"{self._kills[span]} times"
                    self.faults[span.start] = f"the text killed the worker that scored it alone, {times}: {reason}"
        if isinstance(outcome.event, Died):
            self._hung |= outcome.event.hung

    def predictions(self, classes: int) -> Predictions:
        """The rows of all answered texts, in the window's order."""
        return Predictions.concatenate(
            [self._answers[span].predictions for span in sorted(self._answers, key=lambda span: span.start)], classes
        )

    @property
    def inference_s(self) -> float:
        """Seconds in the scorer, over the parts that were answered."""
        return sum(answer.inference_s for answer in self._answers.values())
