"""Fixtures: a tiny model with random weights and its own word-piece tokenizer, to test every rule in milliseconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from earlybell.inference.early_exit.exit_rule import ExitRule
from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration, OperatingPoint
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from tests.inference.tiny_models import outspoken, tiny

WORDS = ["acme", "profit", "soars", "cuts", "outlook", "shares", "fall", "rise", "steady", "loss", "record", "sales"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """On tiny shapes one thread is faster than two that wait for each other, especially on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return tiny()


@pytest.fixture
def tiny_model(tiny_config: Config) -> ElbertForSequenceClassification:
    return outspoken(tiny_config, seed=0)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz", "%", "1", "2", "##s"]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture
def tiny_calibration() -> Calibration:
    def point(dial: float, rule: ExitRule, pruning: Pruning) -> OperatingPoint:
        return OperatingPoint(dial, rule, pruning, accuracy=0.5, accuracy_lost=0.0, mean_depth=2.0, cost=0.5)

    generator = torch.Generator().manual_seed(1)
    return Calibration(
        name="tiny",
        languages=("en",),
        max_tokens=128,
        temperatures=(1.0, 1.5, 0.8, 1.2, 1.0),
        sharpening=(0.0, 0.2, 0.1, 0.0, 0.3),
        curve=(
            point(0.0, ExitRule(), Pruning()),
            point(0.5, ExitRule(0.7, "agreement", 3, 0.1), Pruning()),
            point(0.75, ExitRule(0.7, "trend", 2, 0.0), Pruning(0.8, from_tokens=20)),
            point(1.0, ExitRule(0.9), Pruning(0.6)),
        ),
        default_dial=0.5,
        token_table=(8 * torch.rand((64, 5), generator=generator)).softmax(-1).numpy(),
    )


@pytest.fixture
def tiny_checkpoint(
    tiny_model: ElbertForSequenceClassification, tiny_calibration: Calibration, tokenizer_file: Path, tmp_path: Path
) -> Path:
    directory = tmp_path / "tiny"
    checkpoint.save(tiny_model, tokenizer_file, tiny_calibration, directory, card="# tiny\n")
    return directory


@pytest.fixture(scope="session")
def texts() -> list[str]:
    generator = random.Random(5)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 40))) for _ in range(120)] + ["", "zebra", "acme"]
