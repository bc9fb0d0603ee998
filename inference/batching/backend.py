"""How a window's texts are put into batches and carried through the depths: strategies behind one interface.

``padded``: full depth, order of arrival, padded to the longest. What most people run; the baseline.
``shrink``: texts that exit are dropped and the batch shrinks (FastBERT's way).
``presort``: texts that will probably leave together travel together (GEEP's order), then as ``shrink``.
``predict``: GEEP's pure form: a batch runs to its predicted depth, and only that depth's exit is evaluated.
``refill``: fixed slots; a text that exits makes room for the next in the queue (`refilling`).

In all but ``padded`` and ``predict`` each text leaves by its own rule, and its answer does not hang on its neighbours:

- int8 (`quantised`) computes every text on its own, from integers: the same bits in every strategy, order and batch.
  There is nothing to keep full, so all three hand their texts over to one call (`packed_exits`), each in its order.
- float32 and bfloat16 (`padded_batches`) pad a text to a width that its own length chooses (`bucket`). ``refill``
  (`fixed_slots`) keeps the number of rows fixed too, so a matrix product always has one shape: the exact mode.
  ``shrink`` and ``presort`` change the number of rows, and a library's product may then sum in another order: within
  1e-5 (float32) and 1e-3 (bfloat16) of each other, not the same bits.

It knows batches that can be deepened, an exit rule and token ids; nothing of tensors' insides, tokenizers or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from earlybell.inference.early_exit.confidence_window import ExitRule
from earlybell.inference.model.elbert import Config

if TYPE_CHECKING:
    from earlybell.inference.backends.slots import Slots

Order = Literal["arrival", "length", "predicted"]
Ids = NDArray[np.int32]


class Batch(Protocol):
    """Texts that travel together, each at a depth of its own. Row i is a text."""

    depth: NDArray[np.int64]  # (rows,) that each text has reached

    def __len__(self) -> int:
        """How many texts it holds."""
        ...

    def deepen(self, rows: NDArray[np.int64]) -> None:
        """Carry these rows, all in one group of weights, one depth further."""
        ...

    def probabilities(self, rows: NDArray[np.int64]) -> Tensor:
        """(len(rows), C) on the CPU: what each row's exit at its own depth says, after that exit's temperature."""
        ...

    def tokens(self) -> NDArray[np.int32]:
        """(rows,) tokens that are alive."""
        ...

    def exchange(self, stays: NDArray[np.bool_], new: Sequence[Ids]) -> None:
        """Drop the rows that do not stay; the others move together, and new texts come behind them at depth 0."""
        ...


class Encoder(Protocol):
    """A model on a device, ready to start batches, and the rule that texts leave it by."""

    @property
    def config(self) -> Config:
        """The model's shape."""
        ...

    @property
    def rule(self) -> ExitRule:
        """When a text leaves."""
        ...

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch, padding included."""
        ...

    @property
    def pads(self) -> bool:
        """Whether the texts of a batch take a common width."""
        ...

    def start(self, rows: Sequence[Ids], width: int, prunes: bool = True) -> Batch:
        """A batch at depth 0; where it ``prunes``, tokens are dropped if the encoder does so."""
        ...

    def answer(self, rows: Sequence[Ids]) -> Answers | None:
        """Take texts to the exits that they leave by, in one go; None where a batch is carried depth by depth."""
        ...

    def slots(self, width: int) -> Slots | None:
        """Slots of this width, nobody in them; None where no shape need be kept."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """The texts that are scored together."""

    rows: Sequence[Ids]  # ids, special tokens included
    predicted: NDArray[np.float32]  # (texts,) predicted exit depth; NaN where nothing predicts


@dataclass(frozen=True, slots=True)
class Part:
    """Texts of a window that make a batch, and the width they are padded to."""

    texts: NDArray[np.int64]
    width: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What came out, in the order of the window; filled row by row as texts leave."""

    probabilities: NDArray[np.float32]  # (texts, C)
    exit_depth: NDArray[np.int16]
    tokens_kept: NDArray[np.int32]

    @classmethod
    def empty(cls, texts: int, classes: int) -> Answers:
        """Room for so many texts."""
        return cls(np.zeros((texts, classes), np.float32), np.full(texts, -1, np.int16), np.zeros(texts, np.int32))

    def put(
        self,
        texts: NDArray[np.int64],
        probabilities: Tensor,
        depth: int | NDArray[np.int64],
        kept: NDArray[np.int32],
    ) -> None:
        """These texts leave at ``depth`` (one for all, or one each)."""
        self.probabilities[texts] = probabilities.numpy()
        self.exit_depth[texts] = depth
        self.tokens_kept[texts] = kept

    def take(self, texts: NDArray[np.int64], answers: Answers) -> None:
        """These texts have answers of their own."""
        self.probabilities[texts] = answers.probabilities
        self.exit_depth[texts] = answers.exit_depth
        self.tokens_kept[texts] = answers.tokens_kept


Strategy = Callable[[Encoder, Window], Answers]


def bucket(tokens: int) -> int:
    """The width that a text of so many tokens is padded to: steps of 4 to 32, 8 to 64, then 32.

    Padding is then a few tokens on a headline and a few per cent on a body, and a window still falls into few shapes.
    """
    step = 4 if tokens <= 32 else 8 if tokens <= 64 else 32
    return max(8, -(-tokens // step) * step)


def padded(encoder: Encoder, window: Window) -> Answers:
    """Full depth in order of arrival, each batch padded to its longest text: shapes hang on the neighbours."""
    answers = Answers.empty(len(window.rows), encoder.config.classes)
    for part in _in_a_row(encoder, window):
        _to_depth(encoder, window, part, encoder.config.layers, answers, prunes=False)
    return answers


def predict(encoder: Encoder, window: Window) -> Answers:
    """GEEP's pure form: the prediction is the exit depth. Nothing is checked on the way, and accuracy pays for it.

    Source: Li et al. 2024, doi 10.1007/s11704-022-2341-9. A text without a prediction runs to full depth.
    """
    answers = Answers.empty(len(window.rows), encoder.config.classes)
    exits = encoder.config.depths
    rounded = np.clip(np.rint(np.nan_to_num(window.predicted, nan=exits[-1])), exits[0], exits[-1]).astype(np.int64)
    for depth in np.unique(rounded):
        texts = np.flatnonzero(rounded == depth)
        for part in batches(window, "length", encoder.batch_tokens, encoder.pads, texts):
            _to_depth(encoder, window, part, int(depth), answers)
    return answers


def batches(
    window: Window, order: Order, batch_tokens: int, pads: bool = True, among: NDArray[np.int64] | None = None
) -> Iterator[Part]:
    """Cut a window into parts of at most ``batch_tokens`` tokens (or one text), in the given order.

    Where texts are padded the width comes before the order (ours): little padding is computed, and shapes stay a
    text's own. The sort is stable, so that equal texts stay in order of arrival.
    """
    texts = np.arange(len(window.rows)) if among is None else among
    lengths = np.array([len(window.rows[text]) for text in texts], np.int64)
    key: NDArray[np.float32] = np.zeros(len(texts), np.float32)
    if order == "length":
        key = lengths.astype(np.float32)
    elif order == "predicted":
        key = np.nan_to_num(window.predicted[texts], nan=0.0)
    if not pads:
        arranged = np.lexsort((lengths, key)) if order == "predicted" else np.argsort(key, kind="stable")
        full = np.cumsum(lengths[arranged]) // max(1, batch_tokens)
        for piece in np.split(arranged, np.flatnonzero(np.diff(full)) + 1) if len(texts) else ():
            yield Part(texts[piece], 0)
        return
    widths = np.array([bucket(int(length)) for length in lengths], np.int64)
    arranged = np.lexsort((key, widths))
    for width in np.unique(widths):
        of_width = arranged[widths[arranged] == width]
        size = max(1, batch_tokens // int(width))
        for start in range(0, len(of_width), size):
            yield Part(texts[of_width[start : start + size]], int(width))


def _in_a_row(encoder: Encoder, window: Window) -> Iterator[Part]:
    start = 0
    while start < len(window.rows):
        stop, longest = start, 0
        while stop < len(window.rows):
            longest = max(longest, len(window.rows[stop]))
            if stop > start and (stop + 1 - start) * longest > encoder.batch_tokens:
                break
            stop += 1
        yield Part(np.arange(start, stop), max(len(row) for row in window.rows[start:stop]))
        start = stop


def _to_depth(encoder: Encoder, window: Window, part: Part, depth: int, answers: Answers, prunes: bool = True) -> None:
    batch = encoder.start([window.rows[text] for text in part.texts], part.width, prunes=prunes)
    rows = np.arange(len(batch))
    for _ in range(depth):
        batch.deepen(rows)
    answers.put(part.texts, batch.probabilities(rows), depth, batch.tokens())
