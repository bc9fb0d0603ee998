"""ELBERT: an ALBERT-style encoder with an exit head at every depth. The whole model definition, top to bottom.

Sources: ELBERT, arXiv 2107.00175; its financial-sentiment system, arXiv 2211.08842; ALBERT, arXiv 1909.11942.
It computes hidden states and exit logits. It knows nothing of *when* to exit (``confidence_window``), of *which*
tokens to drop (``token_pruning`` tells it how many), of batches, files or tokenizers.

Axes: B texts, T tokens, V vocabulary, E embedding size, h hidden size, H heads, L depths, C classes.
Depth 0 is the embedding before any layer has run; depth l is the output of the l-th application of a layer.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from earlybell.inference.model.contribution import attention_with_contribution, pays_fused

#: Rows that an exit head computes at least; see `Head.forward`.
_LEAST_ROWS = 8

HeadForm = Literal["cls", "cls_mean"]
#: One depth, or one for each of many texts.
Depths = TypeVar("Depths", int, NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of an ELBERT. A BERT is one with ``groups == layers`` and ``projection`` off."""

    vocabulary: int = 30_522  # V
    embedding: int = 384  # E
    hidden: int = 384  # h
    heads: int = 12  # H
    feed_forward: int = 1_536
    layers: int = 6  # L: how often a layer is applied
    groups: int = 1  # sets of weights that the L applications share; layer l uses group floor((l - 1) * groups / L)
    inner_layers: int = 1  # layers in one group, run one after the other (ALBERT's inner_group_num)
    positions: int = 512
    token_types: int = 2
    projection: bool = False  # E -> h; needed where E != h (ALBERT always has one)
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    norm_epsilon: float = 1e-12
    head: HeadForm = "cls_mean"  # what an exit head reads: [CLS], or [CLS] beside the mean of the live tokens
    head_hidden: int = 128  # width of a head's tanh layer (the paper's pooler has h)
    shared_head: bool = False  # one head for depths 1..L, as in the paper, or one each
    depth_zero: bool = True  # a head on the embeddings, so that a text may leave before any layer has run
    depth_zero_filters: int = 0  # F, features of three neighbouring tokens that the head at depth 0 reads as well
    dropout: float = 0.0  # in training; the paper uses none
    pad_id: int = 0
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
        """The depths that have an exit head: 0..L or 1..L."""
        return range(0 if self.depth_zero else 1, self.layers + 1)

    def group_at(self, depth: Depths) -> Depths:
        """The group of weights that carries a text from ``depth - 1`` to ``depth`` (1..L)."""
        return (depth - 1) * self.groups // self.layers

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`; raises ``ValueError`` on a name that a Config does not have."""
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model configuration: {', '.join(sorted(unknown))}")
        return cls(**{**values, "labels": tuple(values["labels"])})


class Embedding(nn.Module):
    """Factorised embedding: token + position + type at size E, normalised, then projected to h."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.embedding, padding_idx=config.pad_id)
        self.position = nn.Embedding(config.positions, config.embedding)
        self.token_type = nn.Embedding(config.token_types, config.embedding)
        self.norm = nn.LayerNorm(config.embedding, eps=config.norm_epsilon)
        self.projection = nn.Linear(config.embedding, config.hidden) if config.projection else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, h)."""
        positions = self.position.weight[: ids.shape[1]]  # (T, E)
        x = self.token(ids) + self.token_type.weight[0] + positions  # (B, T, E): every text is of type 0
        return self.projection(self.dropout(self.norm(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer, norms after the residuals as in BERT, with room to drop tokens half-way."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        h = config.hidden
        self.heads = config.heads
        self.qkv = nn.Linear(h, 3 * h)
        self.attention_out = nn.Linear(h, h)
        self.attention_norm = nn.LayerNorm(h, eps=config.norm_epsilon)
        self.feed_forward_in = nn.Linear(h, config.feed_forward)
        self.feed_forward_out = nn.Linear(config.feed_forward, h)
        self.feed_forward_norm = nn.LayerNorm(h, eps=config.norm_epsilon)
        self.activation = config.activation
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, live: Tensor, keep: Tensor | None = None, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the layer once.

        Parameters
        ----------
        x
            (B, T, h) hidden states.
        live
            (B, T) bool: False for padding. Live tokens come first in every row.
        keep
            (B,) how many tokens of each text live on past the attention (ACC, arXiv 2201.03327): [CLS] and the
            best of the others by attention context contribution, in their order. None: all of them, by fused attention.
        width
            T' where tokens are dropped; None: max(keep). Given, a text's shapes do not depend on its neighbours.

        Returns
        -------
        hidden, live
            (B, T', h) and (B, T'), where T' = T, or ``width``.
        """
        B, T, h = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, h/H)
        mask = live[:, None, None, :]  # (B, 1, 1, T): nobody attends to padding
        # Fused attention hides its probabilities, and on a CPU its backward pass costs as much as all the products.
        if keep is None and not (self.training and x.device.type == "cpu"):
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, T, h/H)
        elif keep is not None and not self.training and pays_fused(x.device, T):
            context, contribution = attention_with_contribution(q, k, v, live)
        else:
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(h // self.heads)  # (B, H, T, T)
            attention = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
            context = attention.to(v.dtype) @ v
            contribution = context_contribution(attention, live)
        context = context.transpose(1, 2).reshape(B, T, h)
        if keep is not None:
            rows = strongest_tokens(contribution, live, keep, width)  # (B, T')
            # Dropped tokens leave before the output projection: its rows are independent, so the rest is unchanged.
            x = x.gather(1, rows[..., None].expand(-1, -1, h))
            context = context.gather(1, rows[..., None].expand(-1, -1, h))
            live = torch.arange(rows.shape[1], device=x.device) < keep[:, None]
        x = self.attention_norm(x + self._drop(self.attention_out(context)))
        widened = self._activate(self.feed_forward_in(x))  # (B, T', 4h)
        return self.feed_forward_norm(x + self._drop(self.feed_forward_out(widened))), live

    def _activate(self, x: Tensor) -> Tensor:
        match self.activation:
            case "gelu":
                return F.gelu(x)
            case "gelu_new":
                return F.gelu(x, approximate="tanh")
            case "relu":
                return F.relu(x)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def context_contribution(attention: Tensor, live: Tensor) -> Tensor:
    """ACC_j = (1 / (H n)) sum over heads and live queries i of A[i, j]: how much token j gives to the others.

    Parameters
    ----------
    attention
        (B, H, T, T) softmax attention, queries by keys, nothing on padded keys.
    live
        (B, T) bool.

    Returns
    -------
    contribution
        (B, T); sums to 1 over a text's live tokens, 0 on padding (arXiv 2201.03327, reconstructed).
    """
    from_live = attention * live[:, None, :, None]  # padded queries say nothing
    return from_live.sum((1, 2)) / (attention.shape[1] * live.sum(-1, keepdim=True))


def strongest_tokens(contribution: Tensor, live: Tensor, keep: Tensor, width: int | None = None) -> Tensor:
    """Positions of [CLS] and the ``keep - 1`` other live tokens of highest contribution, in the order of the text.

    Ties go to the earlier token, so that the choice does not hang on a sort's whim. Rows that keep fewer than the
    longest are filled up with positions that the caller masks.

    Parameters
    ----------
    contribution, live
        (B, T).
    keep
        (B,) between 1 and the row's live tokens.
    width
        Columns of the result, at least max(keep), which is the default.

    Returns
    -------
    positions
        (B, width) int64, ascending among the kept.
    """
    T = contribution.shape[1]
    ranked = contribution.masked_fill(~live, -1.0)
    ranked[:, 0].fill_(torch.inf)  # [CLS] always stays
    order = ranked.argsort(dim=1, descending=True, stable=True)  # (B, T) positions, best first
    width = int(keep.max()) if width is None else width
    place = torch.arange(T, device=contribution.device)
    kept = torch.where(place < keep[:, None], order, T + place)  # what is not kept sorts behind everything
    return kept.sort(dim=1).values[:, :width].clamp_max(T - 1)


class Filters(nn.Module):
    """What three neighbouring tokens say together: a convolution and its maximum and mean over the text.

    Before any layer has run no token knows its neighbours, so that "not" and "good" count one by one; this costs a
    head at depth 0 a few per cent of a layer. Source: Kim 2014, arXiv 1408.5882, section 2; the mean is ours.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        # One product a token, [left, middle, right] side by side, summed afterwards: no row knows another.
        self.features = config.depth_zero_filters
        self.taps = nn.Linear(config.hidden, 3 * self.features, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.features))

    def forward(self, x: Tensor, live: Tensor) -> Tensor:
        """(B, T, h), (B, T) -> (B, 2F): each feature's maximum over the live tokens, then its mean."""
        weight = live[..., None].to(self.bias.dtype)
        before, here, after = (self.taps(x.to(self.bias.dtype)) * weight).chunk(3, dim=-1)  # each (B, T, F)
        # A token's left neighbour speaks through its `before`; beyond the text's ends there is nobody.
        found = here + F.pad(before[:, :-1], (0, 0, 1, 0)) + F.pad(after[:, 1:], (0, 0, 0, 1)) + self.bias
        found = torch.relu(found) * weight  # >= 0, so that padding never is the maximum
        return torch.cat([found.amax(1), found.sum(1) / weight.sum(1)], dim=-1)


class Head(nn.Module):
    """An exit: pooled states -> tanh layer -> class logits. Runs in its own (full) precision."""

    def __init__(self, config: Config, form: HeadForm, filters: bool = False) -> None:
        super().__init__()
        self.form = form
        self.filters = Filters(config) if filters else None
        width = config.hidden * (2 if form == "cls_mean" else 1) + (2 * config.depth_zero_filters if filters else 0)
        self.pooler = nn.Linear(width, config.head_hidden)
        self.classifier = nn.Linear(config.head_hidden, config.classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, live: Tensor) -> Tensor:
        """(B, T, h), (B, T) -> (B, C) logits."""
        return self.classify(self.pool(x, live))

    def pool(self, x: Tensor, live: Tensor) -> Tensor:
        """(B, T, h), (B, T) -> (B, h or 2h, + 2F), what the head reads: the same for every head of its form."""
        pooled = x[:, 0].to(self.pooler.weight.dtype)  # (B, h): [CLS]
        if self.form == "cls_mean":
            weight = live[..., None].to(x.dtype)
            mean = (x * weight).sum(1, dtype=pooled.dtype) / live.sum(1, keepdim=True).to(pooled.dtype)
            pooled = torch.cat([pooled, mean], dim=-1)  # (B, 2h)
        if self.filters is not None:
            pooled = torch.cat([pooled, self.filters(x, live)], dim=-1)  # (B, 2h + 2F)
        return pooled

    def classify(self, pooled: Tensor) -> Tensor:
        """(B, h or 2h, + 2F), as `pool` gives it -> (B, C) logits."""
        texts = len(pooled)
        if not self.training and texts < _LEAST_ROWS:
            # A product of very few rows takes another kernel, which rounds otherwise: a text's answer must not
            # depend on how many stand beside it.
            pooled = F.pad(pooled, (0, 0, 0, _LEAST_ROWS - texts))
        logits: Tensor = self.classifier(self.dropout(torch.tanh(self.pooler(pooled))))
        return logits[:texts]


class ElbertForSequenceClassification(nn.Module):
    """The encoder and its exits.

    ``forward`` runs every depth at once, for training and measurement. An engine drives `embed`, `deepen` and
    `exit_logits` itself, so that texts can leave in between.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.layers = nn.ModuleList(
            nn.ModuleList(Layer(config) for _ in range(config.inner_layers)) for _ in range(config.groups)
        )
        count = 1 if config.shared_head else config.layers
        self.exits = nn.ModuleList(Head(config, config.head) for _ in range(count))
        # At depth 0 [CLS] is the same for every text: only the mean says anything.
        self.exit_zero = Head(config, "cls_mean", config.depth_zero_filters > 0) if config.depth_zero else None
        self.apply(_initialise)

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str], **changes: Any) -> Self:
        """Start from any Hugging Face ALBERT or BERT checkpoint (or one that `save_pretrained` wrote).

        Parameters
        ----------
        source
            A directory, or an id on the Hugging Face hub. Weights are read from safetensors only, never from pickles.
        **changes
            Fields of `Config` to set otherwise than the checkpoint says, for example ``layers=12``.

        Raises
        ------
        inference.checkpoint.CheckpointError
            If it is missing, damaged, or neither an ALBERT nor a BERT.
        """
        from earlybell.inference.model.huggingface import read_pretrained

        config, weights = read_pretrained(source, **changes)
        model = cls(config)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        if unexpected:  # read_pretrained only gives names that the model has
            raise AssertionError(f"weights without a place: {unexpected}")
        model.new_weights = tuple(missing)
        return model

    #: Names of the weights that `from_pretrained` did not find and left at their random initialisation.
    new_weights: tuple[str, ...] = ()

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` so that `from_pretrained` gives the same bits back.

        transformers' own ALBERT reads the encoder from it as well.
        """
        from earlybell.inference.model.huggingface import write_pretrained

        write_pretrained(self, directory)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, h), the state at depth 0."""
        return self.embedding(ids)  # type: ignore[no-any-return]

    def deepen(
        self, x: Tensor, live: Tensor, depth: int, keep: Tensor | None = None, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Carry the states from ``depth - 1`` to ``depth``; see `Layer.forward` for shapes, ``keep``, ``width``."""
        group: nn.ModuleList = self.layers[self.config.group_at(depth)]  # type: ignore[assignment]
        for layer in group:
            x, live = layer(x, live, keep, width)
        return x, live

    def exit_head(self, depth: int) -> Head:
        """The head that reads depth ``depth``."""
        if depth == 0:
            if self.exit_zero is None:
                raise ValueError("this model has no exit at depth 0")
            return self.exit_zero
        return self.exits[0 if self.config.shared_head else depth - 1]  # type: ignore[return-value]

    def exit_logits(self, x: Tensor, live: Tensor, depth: int) -> Tensor:
        """(B, T, h), (B, T) -> (B, C): what the exit at ``depth`` says, before any temperature."""
        return self.exit_head(depth)(x, live)  # type: ignore[no-any-return]

    def forward(self, ids: Tensor, live: Tensor, keep: Tensor | None = None) -> Tensor:
        """Every exit's logits.

        Parameters
        ----------
        ids, live
            (B, T) token ids and which of them are no padding.
        keep
            (B, L) tokens of each text to keep at depth 1..L (``token_pruning.kept_tokens``); None keeps all.

        Returns
        -------
        logits
            (B, exits, C), in the order of ``config.depths``.
        """
        x = self.embed(ids)
        logits = [self.exit_logits(x, live, 0)] if self.config.depth_zero else []
        for depth in range(1, self.config.layers + 1):
            x, live = self.deepen(x, live, depth, None if keep is None else keep[:, depth - 1])
            logits.append(self.exit_logits(x, live, depth))
        return torch.stack(logits, dim=1)


def _initialise(module: nn.Module) -> None:
    """BERT's own: normal of 0.02 for weights, 0 for biases, 1 for norms."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
