"""A model for each of the eleven sets, with an exit at each of six depths, and every exit's answers.

An English set's model is MiniLM with the upper three of its six layers trained, and the exits. A Chinese set's has
characters for a vocabulary and random initial weights: its six depths share one small layer. Finished results are read
from ``RUNS`` the next time, and an interrupted training resumes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from earlybell.inference.model.checkpoint import TOKENIZER_FILE
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.huggingface import CONFIG_FILE
from earlybell.inference.model.tokenizer import Reader, normalise
from earlybell.inference.token_ids import TokenIds
from earlybell.inference.training.backbones import backbone_directory
from earlybell.inference.training.data import Example
from earlybell.inference.training.fit import Training, fit
from earlybell.inference.training.labelled import labels_of
from earlybell.inference.training.optimise import Schedule, all_logits
from earlybell.inference.training.vocabulary import frequent_pieces, prune_embedding, pruned_tokenizer
from tests.benchmarks.eleven_sets_texts import Texts

RUNS = Path(os.environ.get("EARLYBELL_ELEVEN_SETS", "runs/eleven_sets"))
DEPTHS = 6
#: Tokens that a model reads of a text.
MAX_TOKENS = 128
#: Budget of tokens for each part that is measured.
PART_TOKENS = {"dev": 8_000, "counted": 16_000, "test": 16_000}
#: Upper limit of the passes over the training texts.
MOST_PASSES = 6
#: Word pieces, or characters, of a vocabulary.
PIECES = 8_000
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the models of one language are trained."""

    tokens: int  # read in training, all passes together
    frozen: int  # layers, from the first, that are not trained
    schedule: Schedule


ENGLISH = Recipe(24_000, 3, Schedule(learning_rate=2e-4, head_learning_rate=1e-3, batch_texts=8, precision="float32"))
CHINESE = Recipe(80_000, 0, Schedule(learning_rate=1e-3, head_learning_rate=1e-3, batch_texts=16, precision="float32"))
#: The shape of a model with random initial weights.
SMALL = Config(
    embedding=128, hidden=128, heads=4, feed_forward=512, layers=DEPTHS, groups=1, positions=MAX_TOKENS,
    head="cls_mean", head_hidden=64, depth_zero=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """Some texts with the logits of every exit."""

    rows: TokenIds
    logits: NDArray[np.float32]  # (texts, exits, C)
    truth: NDArray[np.int64]  # (texts,); empty where there are no labels


@dataclass(frozen=True, slots=True)
class Answers:
    """What a set's model answers."""

    dev: Part
    counted: Part
    test: Part
    vocabulary: int
    labels: tuple[str, ...]


def answers_of(name: str, texts: Texts, chinese: bool, runs: Path = RUNS) -> Answers:
    """Return the answers of the set's model, training it first if necessary."""
    directory = runs / name
    labels = labels_of([*texts.train, *texts.dev, *texts.test])
    if not (directory / "start" / CONFIG_FILE).is_file():
        write_start(directory / "start", _texts(texts.train), labels, chinese)
    reader = Reader.open(directory / "start" / TOKENIZER_FILE, MAX_TOKENS)
    parts = {"dev": _texts(texts.dev), "counted": texts.counted, "test": _texts(texts.test)}
    rows = {part: within(reader.read(part_texts), PART_TOKENS[part]) for part, part_texts in parts.items()}

    file = directory / "logits.npz"
    if not file.is_file():
        model = _trained(directory, reader, texts.train, labels, CHINESE if chinese else ENGLISH)
        logits = {part: all_logits(model, part_rows, precision="float32") for part, part_rows in rows.items()}
        np.savez(directory / "unfinished.npz", **logits)  # type: ignore[arg-type]
        (directory / "unfinished.npz").replace(file)
    with np.load(file) as stored:
        logits = {part: stored[part] for part in parts}

    truth = {part: _classes(examples, labels) for part, examples in (("dev", texts.dev), ("test", texts.test))}
    truth["counted"] = np.empty(0, np.int64)
    dev, counted, test = (Part(rows[part], logits[part], truth[part][: len(rows[part])]) for part in parts)
    return Answers(dev, counted, test, max(reader.vocabulary.values()) + 1, labels)


def _trained(
    directory: Path, reader: Reader, train: Sequence[Example], labels: tuple[str, ...], recipe: Recipe
) -> ElbertForSequenceClassification:
    if (directory / CONFIG_FILE).is_file():
        return ElbertForSequenceClassification.from_pretrained(directory)
    passes, count = passes_and_texts(reader.read(_texts(train)).lengths, recipe.tokens)
    run = Training(
        data=Path(), out=directory, start=str(directory / "start"), changes={"head_hidden": SMALL.head_hidden},
        frozen=recipe.frozen,
        schedule=replace(recipe.schedule, epochs=passes, batch_tokens=2_048, warm_up=0.1, save_every=100),
    )  # fmt: skip
    return fit(run, train[:count], labels)[0]


def passes_and_texts(lengths: NDArray[np.int32], tokens: int) -> tuple[int, int]:
    """Return the number of passes, and of leading texts to read in each, that fit a budget of tokens in total."""
    passes = int(np.clip(tokens // lengths.sum(), 1, MOST_PASSES))
    return passes, int((lengths.cumsum() * passes <= tokens).sum())


def write_start(directory: Path, texts: Sequence[str], labels: tuple[str, ...], chinese: bool) -> None:
    """Write an untrained model with a vocabulary made from the texts; its configuration is written last."""
    torch.manual_seed(ENGLISH.schedule.seed)
    directory.mkdir(parents=True, exist_ok=True)
    if chinese:
        tokenizer = character_tokenizer(texts)
        vocabulary = tokenizer.get_vocab()
        model = ElbertForSequenceClassification(
            replace(SMALL, vocabulary=len(vocabulary), pad_id=vocabulary["[PAD]"], labels=labels)
        )
    else:
        backbone = backbone_directory("minilm")
        kept = frequent_pieces(Reader.open(backbone / TOKENIZER_FILE, MAX_TOKENS), texts, PIECES)
        tokenizer = pruned_tokenizer(backbone / TOKENIZER_FILE, kept)
        changes = {"labels": labels, "groups": DEPTHS, "depth_zero": False, "head": SMALL.head,
                   "head_hidden": SMALL.head_hidden}  # fmt: skip
        model = prune_embedding(ElbertForSequenceClassification.from_pretrained(backbone, **changes), kept)
        weights = model.weights()
        weights["embedding.position.weight"] = weights["embedding.position.weight"][:MAX_TOKENS]
        model = ElbertForSequenceClassification.of(replace(model.config, positions=MAX_TOKENS), weights)
    tokenizer.save(str(directory / TOKENIZER_FILE))
    model.save_pretrained(directory)


def character_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Return a tokenizer whose pieces are the texts' most frequent characters.

    Chinese characters are words by themselves; letters and digits, which are not, also continue a word.
    """
    counts = Counter(character for text in texts for character in normalise(text).lower() if not character.isspace())
    room = PIECES - len(SPECIAL_TOKENS)
    characters = [character for character, count in counts.most_common() if count > 1]
    pieces = [*characters, *(f"##{character}" for character in characters if character.isascii())][:room]
    tokenizer = Tokenizer(
        models.WordPiece({piece: index for index, piece in enumerate([*SPECIAL_TOKENS, *pieces])}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def within(rows: TokenIds, tokens: int) -> TokenIds:
    """Return the longest prefix of the texts that fits a budget of tokens in total."""
    return rows[: int(np.searchsorted(rows.offsets, tokens, "right")) - 1]


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.text for example in examples]


def _classes(examples: Sequence[Example], labels: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([labels.index(example.label) for example in examples], np.int64)
