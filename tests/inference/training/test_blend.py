"""A blend is between two models, piece by piece of their vocabularies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from earlybell.inference.model.checkpoint import TOKENIZER_FILE
from earlybell.inference.model.config import Config
from earlybell.inference.model.huggingface import read_pretrained
from earlybell.streams import cli
from tests.inference.tiny_models import outspoken, tiny

EMBEDDING = "embedding.token.weight"


@pytest.fixture
def start(tmp_path: Path, tiny_config: Config, tokenizer_file: Path) -> Path:
    return write(tmp_path / "start", tiny_config, tokenizer_file, seed=1)


@pytest.fixture
def end(tmp_path: Path, tiny_config: Config, tokenizer_file: Path) -> Path:
    """A model with one new piece, in the place of another."""
    directory = write(tmp_path / "end", tiny_config, tokenizer_file, seed=2)
    definition = json.loads((directory / TOKENIZER_FILE).read_text())
    pieces = definition["model"]["vocab"]
    pieces["rocket"] = pieces.pop("acme")
    (directory / TOKENIZER_FILE).write_text(json.dumps(definition))
    return directory


def write(directory: Path, config: Config, tokenizer: Path, seed: int) -> Path:
    outspoken(config, seed).save_pretrained(directory)
    shutil.copyfile(tokenizer, directory / TOKENIZER_FILE)
    return directory


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_weight_lies_between(start: Path, end: Path, tmp_path: Path, share: float) -> None:
    out = tmp_path / "out"
    assert cli.execute(["blend", str(out), str(start), str(end), "--share", str(share), "--figures"]) == 0
    (_, first), (end_config, last), (config, mixed) = map(read_pretrained, (start, end, out))
    assert not end_config.figures
    assert config.figures
    pieces = json.loads((end / TOKENIZER_FILE).read_text())["model"]["vocab"]
    new = pieces["rocket"]
    for name, value in mixed.items():
        expected = (1 - share) * first[name] + share * last[name]
        if name == EMBEDDING:
            expected[new] = last[name][new]
            value, expected = value[: len(pieces)], expected[: len(pieces)]  # noqa: PLW2901
        assert np.allclose(value, expected, atol=2e-3 * np.abs(expected).max()), name
    assert (out / TOKENIZER_FILE).read_bytes() == (end / TOKENIZER_FILE).read_bytes()


def test_other_shapes_are_refused(
    start: Path, tmp_path: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "other", tiny(layers=2), tokenizer_file, seed=3)
    assert cli.execute(["blend", str(tmp_path / "out"), str(start), str(other)]) == 2
    assert "different shapes" in capsys.readouterr().err
