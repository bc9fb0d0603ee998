"""ELBERT: an ALBERT-style encoder with an exit head at every depth. The whole model, top to bottom.

Sources: ELBERT, arXiv 2107.00175; its financial-sentiment system, arXiv 2211.08842; ALBERT, arXiv 1909.11942.
It computes hidden states and exit logits; `config` describes its shape. It knows nothing of *when* to exit
(``confidence_window``), *how many* tokens to keep (``token_pruning``), batches, files or tokenizers.

Axes: B texts, T tokens, V vocabulary, E embedding size, h hidden size, H heads, L depths, C classes.
Depth 0 is the embedding before any layer has run; depth l is the output of the l-th application of a layer.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from earlybell.inference.model.config import Config, HeadForm
from earlybell.inference.model.contribution import attention_with_contribution, pays_fused
from earlybell.inference.model.huggingface import read_pretrained, write_pretrained
from earlybell.inference.model.weights import Weights, as_float32

#: Fewer rows are padded to this many; see `Head.classify`.
_MIN_HEAD_ROWS = 8


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
        """Embed token ids: (B, T) -> (B, T, h)."""
        positions = self.position.weight[: ids.shape[1]]  # (T, E)
        x = self.token(ids) + self.token_type.weight[0] + positions  # (B, T, E); token type 0 throughout
        return self.projection(self.dropout(self.norm(x)))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One transformer layer, post-norm as in BERT, that can drop tokens after the attention."""

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
            (B,) how many tokens of each text to keep after the attention (ACC, arXiv 2201.03327): [CLS] and those with
            the highest attention context contribution, in their order. None: keep all, with fused attention.
        width
            T' if tokens are dropped; None: max(keep). A fixed width makes shapes independent of the batch.

        Returns
        -------
        hidden, live
            (B, T', h) and (B, T'), where T' is T, or ``width`` if tokens are dropped.
        """
        B, T, h = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, h/H)
        mask = live[:, None, None, :]  # (B, 1, 1, T): no query attends to padding
        # Fused attention hides its probabilities, and on a CPU its backward pass costs as much as all the matmuls.
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
            # Drop tokens before the output projection: its rows are independent, so the others do not change.
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
    """Return ACC_j = (1 / (H n)) * sum over heads and live queries i of A[i, j]: how much token j gives to the others.

    Parameters
    ----------
    attention
        (B, H, T, T) softmax attention, queries by keys, zero on padded keys.
    live
        (B, T) bool.

    Returns
    -------
    contribution
        (B, T); sums to 1 over a text's live tokens, 0 on padding (arXiv 2201.03327, our reconstruction).
    """
    from_live = attention * live[:, None, :, None]  # padded queries do not count
    return from_live.sum((1, 2)) / (attention.shape[1] * live.sum(-1, keepdim=True))


def strongest_tokens(contribution: Tensor, live: Tensor, keep: Tensor, width: int | None = None) -> Tensor:
    """Return the positions of [CLS] and the ``keep - 1`` other live tokens of highest contribution, in text order.

    Ties go to the earlier token, so the result does not depend on the sort. Rows that keep fewer tokens than the widest
    are filled with positions that the caller masks.

    Parameters
    ----------
    contribution, live
        (B, T).
    keep
        (B,) from 1 to the row's number of live tokens.
    width
        Columns of the result, at least max(keep) (the default).

    Returns
    -------
    positions
        (B, width) int64, ascending over the kept ones.
    """
    T = contribution.shape[1]
    ranked = contribution.masked_fill(~live, -1.0)
    ranked[:, 0].fill_(torch.inf)  # [CLS] always stays
    order = ranked.argsort(dim=1, descending=True, stable=True)  # (B, T) positions, best first
    width = int(keep.max()) if width is None else width
    place = torch.arange(T, device=contribution.device)
    kept = torch.where(place < keep[:, None], order, T + place)  # dropped tokens sort last
    return kept.sort(dim=1).values[:, :width].clamp_max(T - 1)


class Filters(nn.Module):
    """Trigram features: a convolution over three tokens, with its maximum and mean over the text.

    Before the first layer no token knows its neighbours, so "not" and "good" would count separately. The filters cost a
    few per cent of a layer. Source: Kim 2014, arXiv 1408.5882, section 2; the mean is ours.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        # One matmul per token for all three taps [left, middle, right]; they are shifted and summed afterwards.
        self.features = config.depth_zero_filters
        self.taps = nn.Linear(config.hidden, 3 * self.features, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.features))

    def forward(self, x: Tensor, live: Tensor) -> Tensor:
        """Return each feature's maximum over the live tokens, then its mean: (B, T, h), (B, T) -> (B, 2F)."""
        weight = live[..., None].to(self.bias.dtype)
        left, middle, right = (self.taps(x.to(self.bias.dtype)) * weight).chunk(3, dim=-1)  # each (B, T, F)
        # The left tap of the previous token and the right tap of the next; zero beyond the ends of the text.
        features = middle + F.pad(left[:, :-1], (0, 0, 1, 0)) + F.pad(right[:, 1:], (0, 0, 0, 1)) + self.bias
        features = torch.relu(features) * weight  # >= 0, so padding is never the maximum
        return torch.cat([features.amax(1), features.sum(1) / weight.sum(1)], dim=-1)


class Head(nn.Module):
    """An exit: pooled states -> tanh layer -> class logits. Stays in float32 when the layers do not."""

    def __init__(self, config: Config, form: HeadForm, filters: bool = False) -> None:
        super().__init__()
        self.form = form
        self.filters = Filters(config) if filters else None
        width = config.hidden * (2 if form == "cls_mean" else 1) + (2 * config.depth_zero_filters if filters else 0)
        self.pooler = nn.Linear(width, config.head_hidden)
        self.classifier = nn.Linear(config.head_hidden, config.classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, live: Tensor) -> Tensor:
        """Return the exit's logits: (B, T, h), (B, T) -> (B, C)."""
        return self.classify(self.pool(x, live))

    def pool(self, x: Tensor, live: Tensor) -> Tensor:
        """Pool the states for `classify`: (B, T, h), (B, T) -> (B, h or 2h, + 2F). Equal for all heads of one form."""
        pooled = x[:, 0].to(self.pooler.weight.dtype)  # (B, h): [CLS]
        if self.form == "cls_mean":
            weight = live[..., None].to(x.dtype)
            mean = (x * weight).sum(1, dtype=pooled.dtype) / live.sum(1, keepdim=True).to(pooled.dtype)
            pooled = torch.cat([pooled, mean], dim=-1)  # (B, 2h)
        if self.filters is not None:
            pooled = torch.cat([pooled, self.filters(x, live)], dim=-1)  # (B, 2h + 2F)
        return pooled

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled states: (B, h or 2h, + 2F) -> (B, C)."""
        texts = len(pooled)
        if not self.training and texts < _MIN_HEAD_ROWS:
            # A matmul of very few rows uses another kernel, which rounds differently, but a text's logits must not
            # depend on the size of the batch.
            pooled = F.pad(pooled, (0, 0, 0, _MIN_HEAD_ROWS - texts))
        logits: Tensor = self.classifier(self.dropout(torch.tanh(self.pooler(pooled))))
        return logits[:texts]


class ElbertForSequenceClassification(nn.Module):
    """The encoder and its exits.

    ``forward`` runs all depths, for training and evaluation. Backends call `embed`, `deepen` and `exit_logits`, so that
    texts can exit in between.
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
        # At depth 0 [CLS] is the same for every text, so that head always reads the mean.
        self.exit_zero = Head(config, "cls_mean", config.depth_zero_filters > 0) if config.depth_zero else None
        self.apply(_initialise)

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str], **changes: Any) -> Self:
        """Load any Hugging Face ALBERT or BERT checkpoint, or one that `save_pretrained` wrote.

        Parameters
        ----------
        source
            A directory, or an id on the Hugging Face hub. Weights are read from safetensors only, never from pickles.
        **changes
            Fields of `Config` that override the checkpoint's, for example ``layers=12``.

        Raises
        ------
        CheckpointError
            The checkpoint is missing, damaged, or neither an ALBERT nor a BERT.
        """
        return cls.of(*read_pretrained(source, **changes))

    @classmethod
    def of(cls, config: Config, weights: Weights) -> Self:
        """Return the model with these weights, in float32. Those that are missing keep their random initialisation."""
        model = cls(config)
        tensors = {name: torch.from_numpy(as_float32(value)) for name, value in weights.items()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        if unexpected:
            raise ValueError(f"unexpected weights: {unexpected}")
        model.new_weights = tuple(missing)
        return model

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the weights as arrays, in the model's own precision; bfloat16, which numpy lacks, as float32."""
        return {
            name: (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
            for name, value in self.state_dict().items()
        }

    #: Names of the weights that the checkpoint lacks: they keep their random initialisation.
    new_weights: tuple[str, ...] = ()

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``; `from_pretrained` restores the same bits.

        transformers can load the encoder from them too.
        """
        write_pretrained(self.config, self.weights(), directory)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the hidden states at depth 0: (B, T) token ids -> (B, T, h)."""
        return self.embedding(ids)  # type: ignore[no-any-return]

    def deepen(
        self, x: Tensor, live: Tensor, depth: int, keep: Tensor | None = None, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance the states from ``depth - 1`` to ``depth``; see `Layer.forward` for the parameters and shapes."""
        group: nn.ModuleList = self.layers[self.config.group_at(depth)]  # type: ignore[assignment]
        for layer in group:
            x, live = layer(x, live, keep, width)
        return x, live

    def exit_head(self, depth: int) -> Head:
        """Return the exit head at this depth."""
        if depth == 0:
            if self.exit_zero is None:
                raise ValueError("this model has no exit at depth 0")
            return self.exit_zero
        return self.exits[0 if self.config.shared_head else depth - 1]  # type: ignore[return-value]

    def exit_logits(self, x: Tensor, live: Tensor, depth: int) -> Tensor:
        """Return the logits of the exit at ``depth``, before temperature: (B, T, h), (B, T) -> (B, C)."""
        return self.exit_head(depth)(x, live)  # type: ignore[no-any-return]

    def forward(self, ids: Tensor, live: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the logits of every exit.

        Parameters
        ----------
        ids, live
            (B, T) token ids, and False for padding.
        keep
            (B, L) how many tokens of each text to keep at depths 1..L (``token_pruning.Pruning``); None: all.

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
    """Initialise as BERT does: weights from a normal of 0.02, biases 0, norms 1."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
