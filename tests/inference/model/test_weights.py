"""Weights in int8: exactly what is served, from the quantising to the file and back; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from earlybell.inference.engine import open_engine
from earlybell.inference.kernels import library
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import SHIPPED, CheckpointError
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.weights import (
    INT8_FILE,
    Quantised,
    as_float32,
    quantise,
    quantised,
    read_arrays,
    read_int8,
    shapes,
    write_int8,
)
from earlybell.streams import cli
from tests.inference.tiny_models import outspoken, tiny

CONFIGS = {
    "factorised": tiny(),
    "filters": tiny(depth_zero_filters=16, groups=2, inner_layers=2),
    "the paper's": tiny(head="cls", shared_head=True, depth_zero=False, activation="relu"),
    "bert": tiny(embedding=32, projection=False, groups=4),
}
MATRIX = "layers.0.0.qkv.weight"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_the_shapes_are_those_of_the_torch_model(config: Config) -> None:
    model = ElbertForSequenceClassification(config)
    assert shapes(config) == {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_what_is_quantised_is_read_back_bit_for_bit(tmp_path: Path, config: Config) -> None:
    weights = outspoken(config, seed=3).weights()
    write_int8(weights, tmp_path)
    restored = read_int8(tmp_path, config)
    for name, value in quantised(weights).items():
        again = restored[name]
        if isinstance(value, Quantised):
            assert isinstance(again, Quantised)
            assert np.array_equal(value.values, again.values), name
            assert np.array_equal(value.scale, again.scale), name
        else:
            assert isinstance(again, np.ndarray)
            assert np.array_equal(value, again), name
    assert list(restored) == list(shapes(config))


def test_a_file_written_from_what_was_read_is_the_same_file(tmp_path: Path) -> None:
    config = CONFIGS["filters"]
    write_int8(outspoken(config, seed=3).weights(), tmp_path)
    first = (tmp_path / INT8_FILE).read_bytes()
    write_int8(read_int8(tmp_path, config), tmp_path)
    assert (tmp_path / INT8_FILE).read_bytes() == first


@pytest.mark.parametrize("multiplied", [True, False])
def test_quantising_is_close_and_bounded(multiplied: bool) -> None:
    matrix = np.random.default_rng(1).normal(size=(20, 50)).astype(np.float32)
    matrix[3] = 0.0
    stored = quantise(matrix, multiplied=multiplied)
    assert int(np.abs(stored.values).max()) <= 127
    assert np.all(np.abs(stored.floats() - matrix) <= stored.scale[:, None] * 0.5001)
    assert stored.scale[3] == 1.0
    largest = np.abs(matrix).max(1)
    most = {True: 12.0, False: 1.001}[multiplied]  # eight values of one sign and size share 128
    assert np.all(stored.scale[largest > 0] <= most * largest[largest > 0] / 127)


@given(
    rows=arrays(np.float32, (3, 37), elements=st.floats(-1e6, 1e6, width=32)),
    flat=st.booleans(),
)
def test_what_is_added_in_16_bits_fits(rows: NDArray[np.float32], flat: bool) -> None:
    """Of 16 columns, the products that AVX2 adds before widening, whatever the unsigned bytes are."""
    values = np.zeros((3, 48), np.int64)
    values[:, :37] = quantise(np.full_like(rows, 0.3) if flat else rows).values
    eights = [
        values[:, 16 * group + 2 * half + np.array([0, 1, 4, 5, 8, 9, 12, 13])] for group in range(3) for half in (0, 1)
    ]
    for eight in eights:
        assert 255 * np.maximum(eight, 0).sum(1).max() <= 32_767
        assert 255 * np.minimum(eight, 0).sum(1).min() >= -32_768


def test_float16_is_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 2)
    assert np.array_equal(as_float32(finite), finite.astype(np.float32))


def test_twelve_layers_with_the_shipped_vocabulary_take_32_megabytes(tmp_path: Path) -> None:
    """A layer is 1.77 MB, the token embedding 4.6 MB, an exit 0.2 MB, the tokenizer and its table 0.6 MB."""
    config = replace(checkpoint.load(SHIPPED).config, layers=12, groups=12)
    assert (config.hidden, config.vocabulary) == (384, 12_000)
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=shape).astype(np.float16) for name, shape in shapes(config).items()}
    write_int8(weights, tmp_path)
    for name in ("tokenizer.json", "calibration.json", "config.json"):
        shutil.copy(SHIPPED / name, tmp_path)
    save_file({"token_depths": np.zeros((12_000, 13), np.float16)}, tmp_path / "token_depths.safetensors")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 32_000_000
    assert len(read_int8(tmp_path, config)) == len(shapes(config))


def edited(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[dict[str, NDArray[Any]]], None]:
    def apply(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name] = change(arrays[name].copy())

    return apply


def with_first(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def change(array: NDArray[Any]) -> NDArray[Any]:
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda arrays: arrays.pop(MATRIX), f"lacks {MATRIX}"),
        (lambda arrays: arrays.pop(MATRIX + ".scale"), "needs a positive scale for each row"),
        (lambda arrays: arrays.update(stray=np.zeros(3)), "has stray, which the model has not"),
        (edited(MATRIX, lambda matrix: matrix[:-1]), "needs a positive scale for each row"),
        (edited(MATRIX, lambda matrix: np.ascontiguousarray(matrix[:, :-4])), "has the shape"),
        (edited(MATRIX, lambda matrix: matrix.astype(np.float32)), "is of type float32"),
        (edited(MATRIX, with_first(-128)), "values beyond 127"),
        (edited(MATRIX, lambda matrix: np.full_like(matrix, 17)), "would overflow 16 bits"),
        (edited(MATRIX + ".scale", with_first(np.nan)), "needs a positive scale for each row"),
        (edited(MATRIX + ".scale", with_first(0)), "needs a positive scale for each row"),
        (edited(MATRIX + ".scale", with_first(np.inf)), "infinite"),
        (edited("embedding.token.weight", with_first(-128)), "values beyond 127"),
        (edited("exits.0.pooler.bias", with_first(np.nan)), "not numbers"),
        (edited("embedding.norm.weight", with_first(-np.inf)), "infinite"),
    ],
)
def test_malformed_int8_weights_are_refused(
    tiny_checkpoint: Path, damage: Callable[[dict[str, NDArray[Any]]], object], message: str
) -> None:
    checkpoint.quantise(tiny_checkpoint)
    arrays = load_file(tiny_checkpoint / INT8_FILE)
    damage(arrays)
    save_file(arrays, tiny_checkpoint / INT8_FILE)
    checkpoint.seal(tiny_checkpoint)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(tiny_checkpoint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_in_float16_that_is_not_finite_is_refused(tiny_checkpoint: Path, value: float) -> None:
    file = tiny_checkpoint / "model.safetensors"
    arrays = load_file(file)
    edited("exits.1.classifier.bias", with_first(value))(arrays)
    save_file(arrays, file)
    checkpoint.seal(tiny_checkpoint)
    with pytest.raises(CheckpointError, match=r"exits\.1\.classifier\.bias has values that are not numbers"):
        checkpoint.load(tiny_checkpoint)


def test_a_checkpoint_in_int8_answers_as_before_in_every_precision(tiny_checkpoint: Path, texts: list[str]) -> None:
    """The kernels' matrices keep their bits; the token embeddings move by less than 1/127 of their largest value."""
    precisions = ["float32", *(["int8"] if library.load() is not None else [])]
    before = {name: open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision=name) for name in precisions}
    expected = {name: engine.score(texts).probabilities for name, engine in before.items()}
    old = checkpoint.load(tiny_checkpoint)
    revision = checkpoint.quantise(tiny_checkpoint)
    assert not (tiny_checkpoint / "model.safetensors").exists()
    new = checkpoint.load(tiny_checkpoint)
    assert new.revision == revision != old.revision
    for name, value in old.weights.items():
        stored = new.weights[name]
        if isinstance(stored, Quantised) and name != "embedding.token.weight":
            assert np.array_equal(stored.values, quantise(as_float32(value)).values), name
    for name in precisions:
        engine = open_engine("cpu", checkpoint=tiny_checkpoint, dial=0.0, precision=name)
        assert np.abs(engine.score(texts).probabilities - expected[name]).mean() < 0.02
    described = checkpoint.describe(tiny_checkpoint)
    assert (described["weights"], described["revision"]) == (INT8_FILE, revision)
    with pytest.raises(CheckpointError, match="in int8 already"):
        checkpoint.quantise(tiny_checkpoint)


def test_the_command_prints_the_new_revision(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["quantise", str(tiny_checkpoint), "--keep-floats"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model_revision": checkpoint.verify(tiny_checkpoint)}
    assert (tiny_checkpoint / "model.safetensors").is_file()
    assert cli.execute(["quantise", str(tiny_checkpoint)]) == 2
    assert "in int8 already" in capsys.readouterr().err


def test_training_starts_from_either_form(tiny_checkpoint: Path, tiny_config: Config) -> None:
    floats = ElbertForSequenceClassification.from_pretrained(tiny_checkpoint).weights()
    checkpoint.quantise(tiny_checkpoint)
    model = ElbertForSequenceClassification.from_pretrained(tiny_checkpoint)
    assert (model.config, model.new_weights) == (tiny_config, ())
    for name, value in model.weights().items():
        assert np.abs(value - floats[name]).max() <= np.abs(floats[name]).max() / 100, name
    deeper = ElbertForSequenceClassification.from_pretrained(tiny_checkpoint, layers=6)
    assert deeper.new_weights
    model.save_pretrained(tiny_checkpoint)
    assert not (tiny_checkpoint / INT8_FILE).exists(), "it would hold the weights of before"


def test_floats_may_stay_beside_what_is_served(tiny_checkpoint: Path) -> None:
    floats = (tiny_checkpoint / "model.safetensors").read_bytes()
    revision = checkpoint.quantise(tiny_checkpoint, keep_floats=True)
    assert (tiny_checkpoint / "model.safetensors").read_bytes() == floats
    (tiny_checkpoint / "model.safetensors").write_bytes(b"changed")
    assert checkpoint.load(tiny_checkpoint).revision == revision, "the revision is of what is served"
    (tiny_checkpoint / INT8_FILE).unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        checkpoint.load(tiny_checkpoint)


def test_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    value = torch.linspace(-3, 3, 12).reshape(3, 4)
    save_tensors({"half": value.to(torch.bfloat16), "full": value}, tmp_path / "w.safetensors")
    arrays = read_arrays(tmp_path / "w.safetensors")
    assert np.array_equal(arrays["half"], value.to(torch.bfloat16).float().numpy())
    assert np.array_equal(arrays["full"], value.numpy())


def test_a_tokenizer_with_ids_beyond_the_vocabulary_is_refused(
    tiny_checkpoint: Path, tiny_calibration: Calibration
) -> None:
    """The number of tokens says nothing: one of them may have a large id, which would read past the embeddings."""
    file = tiny_checkpoint / "tokenizer.json"
    file.write_text(file.read_text().replace('"acme":5', '"acme":64').replace('"acme": 5', '"acme": 64'))
    checkpoint.seal(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="a token 64, but the vocabulary ends at 63"):
        checkpoint.load(tiny_checkpoint)
