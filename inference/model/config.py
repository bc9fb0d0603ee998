"""The shape of an ELBERT: what a checkpoint's ``config.json`` holds. It knows no tensors and no files.

Axes as in `elbert`: V vocabulary, E embedding size, h hidden size, L depths, C classes, F features.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

HeadForm = Literal["cls", "cls_mean"]
#: One depth, or one per text.
Depths = TypeVar("Depths", int, NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of an ELBERT. A BERT is one with ``groups == layers`` and ``projection`` off."""

    vocabulary: int = 30_522  # V
    embedding: int = 384  # E
    hidden: int = 384  # h
    heads: int = 12  # H
    feed_forward: int = 1_536
    layers: int = 6  # L: how many times a layer is applied
    groups: int = 1  # sets of weights shared by the L applications; layer l uses group floor((l - 1) * groups / L)
    inner_layers: int = 1  # layers in one group, run in sequence (ALBERT's inner_group_num)
    positions: int = 512
    token_types: int = 2
    projection: bool = False  # E -> h; needed where E != h (ALBERT always has one)
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    norm_epsilon: float = 1e-12
    head: HeadForm = "cls_mean"  # what an exit head reads: [CLS], or [CLS] beside the mean of the live tokens
    head_hidden: int = 128  # width of a head's tanh layer (the paper's pooler has h)
    shared_head: bool = False  # one head for depths 1..L, as in the paper, or one each
    depth_zero: bool = True  # a head on the embeddings, so that a text may exit before the first layer
    depth_zero_filters: int = 0  # F, trigram features that the head at depth 0 reads too
    dropout: float = 0.0  # in training only; the paper uses none
    pad_id: int = 0
    figures: bool = False  # whether a verdict on the figures in a text is read with it (`figures`)
    labels: tuple[str, ...] = field(default=("negative", "neutral", "positive"))  # class order

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden size {self.hidden} is not a multiple of {self.heads} heads")
        if self.embedding != self.hidden and not self.projection:
            raise ValueError(f"embedding size {self.embedding} != hidden size {self.hidden} needs a projection")
        if not 1 <= self.groups <= self.layers:
            raise ValueError(f"groups must be 1..{self.layers}, not {self.groups}")
        if len(self.labels) < 2:
            raise ValueError("a classifier needs at least two labels")

    @property
    def classes(self) -> int:
        """C, the number of labels."""
        return len(self.labels)

    @property
    def depths(self) -> range:
        """Depths with an exit head: 0..L or 1..L."""
        return range(0 if self.depth_zero else 1, self.layers + 1)

    def group_at(self, depth: Depths) -> Depths:
        """Return the group of weights that takes a text from ``depth - 1`` to ``depth`` (1..L)."""
        return (depth - 1) * self.groups // self.layers

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {**asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` returned; raise ``ValueError`` on an unknown field."""
        unknown = set(values) - {known.name for known in fields(cls)}
        if unknown:
            raise ValueError(f"unknown fields in the model configuration: {', '.join(sorted(unknown))}")
        return cls(**{**values, "labels": tuple(values["labels"])})
