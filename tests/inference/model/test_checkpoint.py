from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from earlybell.inference.early_exit.token_pruning import Pruning
from earlybell.inference.model import checkpoint
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import CheckpointError
from earlybell.inference.model.elbert import ElbertForSequenceClassification


def test_a_saved_checkpoint_loads_back(
    tiny_model: ElbertForSequenceClassification, tiny_calibration: Calibration, tokenizer_file: Path, tmp_path: Path
) -> None:
    revision = checkpoint.save(tiny_model, tokenizer_file, tiny_calibration, tmp_path / "c", half=False)
    loaded = checkpoint.load(tmp_path / "c")
    assert loaded.revision == revision
    assert loaded.config == tiny_model.config
    restored = ElbertForSequenceClassification.of(loaded.config, loaded.weights).state_dict()
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, restored[name]), name
    assert replace(loaded.calibration, token_table=None) == replace(tiny_calibration, token_table=None)
    assert loaded.calibration.token_table is not None and tiny_calibration.token_table is not None
    assert np.allclose(loaded.calibration.token_table, tiny_calibration.token_table, atol=1e-3)


def test_half_precision_saved_again_gives_the_same_revision(tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(tiny_checkpoint)
    model = ElbertForSequenceClassification.of(loaded.config, loaded.weights)
    again = checkpoint.save(model, tiny_checkpoint / "tokenizer.json", loaded.calibration, tmp_path / "again")
    assert again == loaded.revision


def test_the_revision_depends_on_weights_tokenizer_and_calibration(
    tiny_model: ElbertForSequenceClassification, tiny_calibration: Calibration, tokenizer_file: Path, tmp_path: Path
) -> None:
    def revision(name: str, calibration: Calibration = tiny_calibration, tokenizer: Path = tokenizer_file) -> str:
        return checkpoint.save(tiny_model, tokenizer, calibration, tmp_path / name)

    first = revision("one")
    assert revision("two") == first
    assert revision("three", replace(tiny_calibration, default_dial=0.0)) != first
    assert revision("five", replace(tiny_calibration, token_table=None)) != first
    other = tmp_path / "tokenizer.json"
    other.write_text(tokenizer_file.read_text().replace('"acme"', '"emca"'))
    assert revision("six", tokenizer=other) != first
    with torch.no_grad():
        tiny_model.exits[0].classifier.bias[0] += 1.0  # type: ignore[union-attr,operator,index]
    assert revision("four") != first


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "calibration.json"])
def test_a_changed_byte_is_detected(tiny_checkpoint: Path, name: str) -> None:
    file = tiny_checkpoint / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(tiny_checkpoint, name)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "token_depths.safetensors"])
def test_a_missing_file_is_detected(tiny_checkpoint: Path, name: str) -> None:
    (tiny_checkpoint / name).unlink()
    refused(tiny_checkpoint, f"{name} is missing")


def test_truncated_weights_are_refused_even_if_sealed(tiny_checkpoint: Path) -> None:
    file = tiny_checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "damaged")


def test_a_pickle_under_the_weights_name_is_refused(tiny_checkpoint: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tiny_checkpoint / "model.safetensors")
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "not a safetensors file")


def test_a_foreign_architecture_is_refused(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "config.json").write_text('{"model_type": "llama"}')
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "not a checkpoint that ELBERT can read")


def test_another_models_calibration_is_refused(tiny_checkpoint: Path) -> None:
    file = tiny_checkpoint / "calibration.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "temperatures": [1.0], "sharpening": [0.0]}))
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "earlybell calibrate")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}'])
def test_an_unreadable_calibration_is_refused(tiny_checkpoint: Path, content: str) -> None:
    (tiny_checkpoint / "calibration.json").write_text(content)
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "calibration")


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_an_unreadable_manifest_is_refused(tiny_checkpoint: Path, content: str) -> None:
    (tiny_checkpoint / "manifest.json").write_text(content)
    refused(tiny_checkpoint, "manifest")


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "not an Earlybell checkpoint")
    refused(tmp_path / "nowhere", "no checkpoint at")


def test_an_untrained_exit_is_refused(tiny_checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = tiny_checkpoint / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "exits.2" not in name}, file)
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "train it first")


def test_describe_returns_plain_values(tiny_checkpoint: Path) -> None:
    described = checkpoint.describe(tiny_checkpoint)
    assert described["revision"] == checkpoint.verify(tiny_checkpoint)
    assert described["default_dial"] == 0.5
    assert [point["dial"] for point in described["curve"]] == [0.0, 0.5, 0.75, 1.0]
    assert json.dumps(described)


def refused(directory: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(directory)
    assert "\n" not in str(error.value)


def test_pruning_by_length_is_kept_and_format_1_is_still_read(tiny_checkpoint: Path) -> None:
    written = checkpoint.load(tiny_checkpoint).calibration
    assert written.point(0.75).pruning == Pruning(0.8, from_tokens=20)
    file = tiny_checkpoint / "calibration.json"
    values = json.loads(file.read_text())
    for point in values["curve"]:
        del point["prunes_from_tokens"]
    file.write_text(json.dumps({**values, "format": 1}))
    checkpoint.seal(tiny_checkpoint)
    assert checkpoint.load(tiny_checkpoint).calibration.point(0.75).pruning == Pruning(0.8), "texts of any length"


def test_an_exit_is_not_sharpened_by_a_calibration_of_format_2(tiny_checkpoint: Path) -> None:
    written = checkpoint.load(tiny_checkpoint).calibration
    assert written.tempering[1].tolist() == pytest.approx([1.5, 0.2])
    file = tiny_checkpoint / "calibration.json"
    values = json.loads(file.read_text())
    del values["sharpening"]
    file.write_text(json.dumps({**values, "format": 2}))
    checkpoint.seal(tiny_checkpoint)
    assert checkpoint.load(tiny_checkpoint).calibration.tempering.tolist() == [[t, 0] for t in written.tempering[:, 0]]


@pytest.mark.parametrize("sharpening", [[0.1], [-0.1] * 5, [float("inf")] * 5])
def test_a_sharpening_that_does_not_fit_is_refused(tiny_checkpoint: Path, sharpening: list[float]) -> None:
    file = tiny_checkpoint / "calibration.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sharpening": sharpening}))
    checkpoint.seal(tiny_checkpoint)
    refused(tiny_checkpoint, "sharpen")
