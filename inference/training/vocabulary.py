"""A smaller vocabulary: the word pieces that headlines use, so that more of a checkpoint's bytes can be layers.

Dropping a piece from a word-piece vocabulary needs no retraining of the tokenizer: longest match first falls back to
shorter pieces, as long as every single character stays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader


def frequent_pieces(reader: Reader, texts: Sequence[str], count: int, always: Sequence[str] = ()) -> list[int]:
    """The ``count`` pieces to keep, ascending: special ones, single ASCII characters, then the most frequent in texts.

    ``always`` are texts whose pieces count a hundredfold (the labelled ones).
    """
    vocabulary = reader.tokenizer.get_vocab()
    frequency: NDArray[np.int64] = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for weight, part in ((1, texts), (100, always)):
        for row in reader.read(part):
            np.add.at(frequency, row, weight)
    for piece, index in vocabulary.items():
        bare = piece.removeprefix("##")
        if piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
            frequency[index] = np.iinfo(np.int64).max
        elif len(bare) == 1 and (bare.isascii() or frequency[index]):
            frequency[index] = np.iinfo(np.int64).max - 1
    return sorted(np.argsort(-frequency, kind="stable")[:count].tolist())


def pruned_tokenizer(tokenizer_file: Path, kept: Sequence[int]) -> Tokenizer:
    """The tokenizer with these pieces only, renumbered in their order."""
    described = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    pieces = {index: piece for piece, index in described["model"]["vocab"].items()}
    new = {old: place for place, old in enumerate(kept)}
    described["model"]["vocab"] = {pieces[old]: new[old] for old in kept}
    for token in described["added_tokens"]:
        token["id"] = new[token["id"]]
    special = (described.get("post_processor") or {}).get("special_tokens", {})
    for token in special.values():
        token["ids"] = [new[old] for old in token["ids"]]
    return Tokenizer.from_str(json.dumps(described))


def prune_embedding(model: ElbertForSequenceClassification, kept: Sequence[int]) -> ElbertForSequenceClassification:
    """A model with the embeddings of these pieces only, in their order."""
    from dataclasses import replace

    config = replace(model.config, vocabulary=len(kept), pad_id=list(kept).index(model.config.pad_id))
    smaller = ElbertForSequenceClassification(config)
    weights = dict(model.state_dict())
    weights["embedding.token.weight"] = weights["embedding.token.weight"][torch.tensor(kept)]
    smaller.load_state_dict(weights)
    return smaller
