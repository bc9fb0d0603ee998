"""Cuts a vocabulary down to the word pieces that headlines use, leaving more of a checkpoint's bytes to its layers.

A piece can be dropped from a WordPiece vocabulary without retraining the tokenizer: longest-match-first falls back to
shorter pieces, as long as every single character is kept.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.tokenizer import Reader

#: BERT's special tokens.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def frequent_pieces(reader: Reader, texts: Sequence[str], count: int, always: Sequence[str] = ()) -> list[int]:
    """Return the ids of the ``count`` pieces to keep, ascending.

    Special tokens and single ASCII characters come first, then the most frequent pieces of ``texts``; those of
    ``always`` (the labelled texts) count a hundredfold.
    """
    vocabulary = reader.vocabulary
    frequency: NDArray[np.int64] = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for weight, part in ((1, texts), (100, always)):
        for row in reader.read(part):
            np.add.at(frequency, row, weight)
    for piece, index in vocabulary.items():
        bare = piece.removeprefix("##")
        if piece in SPECIAL:
            frequency[index] = np.iinfo(np.int64).max
        elif len(bare) == 1 and (bare.isascii() or frequency[index]):
            frequency[index] = np.iinfo(np.int64).max - 1
    return sorted(np.argsort(-frequency, kind="stable")[:count].tolist())


def pruned_tokenizer(tokenizer_file: Path, kept: Sequence[int]) -> Tokenizer:
    """Return the tokenizer with only these pieces, renumbered in their order."""
    definition = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    pieces = {index: piece for piece, index in definition["model"]["vocab"].items()}
    new = {old: index for index, old in enumerate(kept)}
    definition["model"]["vocab"] = {pieces[old]: new[old] for old in kept}
    for token in definition["added_tokens"]:
        token["id"] = new[token["id"]]
    special = (definition.get("post_processor") or {}).get("special_tokens", {})
    for token in special.values():
        token["ids"] = [new[old] for old in token["ids"]]
    return Tokenizer.from_str(json.dumps(definition))


def prune_embedding(model: ElbertForSequenceClassification, kept: Sequence[int]) -> ElbertForSequenceClassification:
    """Return the model with the embeddings of only these pieces, in their order."""
    from dataclasses import replace

    config = replace(model.config, vocabulary=len(kept), pad_id=list(kept).index(model.config.pad_id))
    smaller = ElbertForSequenceClassification(config)
    weights = dict(model.state_dict())
    weights["embedding.token.weight"] = weights["embedding.token.weight"][torch.tensor(kept)]
    smaller.load_state_dict(weights)
    return smaller


def replace_pieces(
    model: ElbertForSequenceClassification, tokenizer_file: Path, characters: Sequence[str]
) -> tuple[Tokenizer, list[str]]:
    """Give ``characters``, emoji for instance, pieces in place of East Asian ones, which an English model never needs.

    A character gets a piece for the start of a word and one for its continuation. Both start from the mean embedding of
    the words in the character's Unicode name ("chart with downwards trend"). The model is changed in place.

    Returns
    -------
    tokenizer, added
        The tokenizer, and the pieces that were added; those that it already has are left alone.

    Raises
    ------
    ValueError
        If there are too few East Asian pieces.
    """
    definition = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = definition["model"]["vocab"]
    wanted = [piece for char in characters for piece in (char, f"##{char}") if piece not in vocabulary]
    spare = [piece for piece in vocabulary if all(_is_east_asian(char) for char in piece.removeprefix("##"))]
    if len(spare) < len(wanted):
        raise ValueError(f"{len(wanted)} pieces to add and only {len(spare)} to replace")
    reader = Reader(json.dumps(definition), model.config.positions)
    weights = model.embedding.token.weight
    names = reader.read([unicodedata.name(piece.removeprefix("##")).lower() for piece in wanted])
    with torch.no_grad():
        means = [weights[torch.from_numpy(row[1:-1].astype(np.int64))].mean(0) for row in names]
        for new, old, mean in zip(wanted, spare, means, strict=False):
            vocabulary[new] = vocabulary.pop(old)
            weights[vocabulary[new]] = mean
    definition["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    return Tokenizer.from_str(json.dumps(definition)), wanted


def _is_east_asian(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("CJK UNIFIED", "HIRAGANA", "KATAKANA"))
