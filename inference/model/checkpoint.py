"""A checkpoint on disk: load, save, verify, describe.

A directory with ``config.json`` and ``model.safetensors`` (Hugging Face's names), ``tokenizer.json``,
``calibration.json``, ``token_depths.safetensors`` if the model predicts exit depths, ``README.md`` (the model card),
and ``manifest.json`` with the SHA-256 of each file that predictions depend on. The *revision* is a hash over these: it
changes with the weights, the tokenizer and the calibration. Nothing is ever unpickled.
This module knows files; nothing of devices or batches.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.huggingface import CONFIG_FILE, WEIGHTS_FILE, CheckpointError
from earlybell.inference.model.tokenizer import Reader

__all__ = ["SHIPPED", "Checkpoint", "CheckpointError", "describe", "load", "save", "verify"]

#: The checkpoint shipped with the package.
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "elbert-small"

TOKENIZER_FILE = "tokenizer.json"
CALIBRATION_FILE = "calibration.json"
TOKEN_TABLE_FILE = "token_depths.safetensors"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
#: The files that predictions depend on, in the order of hashing.
_HASHED = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, CALIBRATION_FILE, TOKEN_TABLE_FILE)
_REQUIRED = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, CALIBRATION_FILE)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory: weights in float32 on the CPU, ready to be moved."""

    directory: Path
    model: ElbertForSequenceClassification
    reader: Reader
    calibration: Calibration
    revision: str


def load(directory: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises
    ------
    CheckpointError
        It is missing, damaged (a file does not match its hash in the manifest) or not a checkpoint. One line that says
        what to do.
    """
    revision = verify(directory)
    model = ElbertForSequenceClassification.from_pretrained(directory)
    if model.new_weights:
        raise CheckpointError(f"{directory} lacks the weights of an exit ({model.new_weights[0]}): train it first")
    try:
        values = json.loads((directory / CALIBRATION_FILE).read_text(encoding="utf-8"))
        calibration = Calibration.from_json(values, _token_table(directory))
        reader = Reader.open(directory / TOKENIZER_FILE, calibration.max_tokens)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{directory} has a tokenizer or calibration that cannot be used: {error}") from error
    config = model.config
    if len(calibration.temperatures) != len(config.depths):
        raise CheckpointError(f"{directory}: calibration is for {len(calibration.temperatures)} exits, "
                              f"the model has {len(config.depths)}: run `earlybell calibrate` again")  # fmt: skip
    if reader.tokenizer.get_vocab_size() > config.vocabulary or calibration.max_tokens > config.positions:
        raise CheckpointError(f"{directory}: the tokenizer or the length limit is of another model")
    table = calibration.token_table
    if table is not None and table.shape != (config.vocabulary, len(config.depths)):
        raise CheckpointError(f"{directory}: the token table is of another model: run `earlybell calibrate` again")
    return Checkpoint(directory, model.float().eval(), reader, calibration, revision)


def save(
    model: ElbertForSequenceClassification,
    tokenizer_file: Path,
    calibration: Calibration,
    directory: Path,
    *,
    half: bool = True,
    card: str | None = None,
) -> str:
    """Write a checkpoint and return its revision.

    Parameters
    ----------
    half
        Store weights as float16 instead of their own type; values beyond its range raise an error.
    card
        The model card, in Markdown.

    Raises
    ------
    CheckpointError
        A weight is beyond the range of float16.
    """
    stored = ElbertForSequenceClassification(model.config)
    stored.load_state_dict(model.state_dict())
    if half:
        stored.half()
        if not all(bool(value.isfinite().all()) for value in stored.state_dict().values()):
            raise CheckpointError("a weight is beyond the range of float16: save with half=False")
    stored.save_pretrained(directory)
    if tokenizer_file.resolve() != (directory / TOKENIZER_FILE).resolve():
        shutil.copyfile(tokenizer_file, directory / TOKENIZER_FILE)
    write_calibration(calibration, directory)
    for name in (WEIGHTS_FILE, TOKEN_TABLE_FILE):
        if (directory / name).is_file():
            (directory / name).chmod(0o644)  # safetensors makes files private, but a package is for all users
    if card is not None:
        (directory / CARD_FILE).write_text(card, encoding="utf-8")
    return seal(directory)


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Replace a checkpoint's calibration; call `seal` afterwards."""
    text = json.dumps(calibration.to_json(), indent=2) + "\n"
    (directory / CALIBRATION_FILE).write_text(text, encoding="utf-8")
    table = directory / TOKEN_TABLE_FILE
    if calibration.token_table is None:
        table.unlink(missing_ok=True)
    else:
        save_file({"token_depths": torch.from_numpy(calibration.token_table).half().contiguous()}, table)


def seal(directory: Path) -> str:
    """Write the manifest of the directory's files and return the revision."""
    hashes = {name: _hash(directory / name) for name in _HASHED if (directory / name).is_file()}
    revision = _revision(hashes)
    manifest = {"revision": revision, "sha256": hashes}
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return revision


def verify(directory: Path) -> str:
    """Check every file against the manifest and return the revision.

    Raises
    ------
    CheckpointError
        A file is missing or does not match the manifest.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"no checkpoint at {directory}: name its directory, or none to use the shipped checkpoint"
        )
    try:
        manifest = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
        hashes: dict[str, str] = dict(manifest["sha256"])
        revision = str(manifest["revision"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory} is not an Earlybell checkpoint: it has no {MANIFEST_FILE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory / MANIFEST_FILE} cannot be read: {error}") from error
    for name in _REQUIRED:
        if name not in hashes:
            raise CheckpointError(f"{directory} is incomplete: its manifest has no {name}")
    for name in _HASHED:
        file = directory / name
        if name in hashes and not file.is_file():
            raise CheckpointError(f"{directory} is incomplete: {name} is missing; fetch it again")
        if file.is_file() and _hash(file) != hashes.get(name):
            raise CheckpointError(f"{file} is damaged or was changed: it does not match the manifest; fetch it again")
    if _revision(hashes) != revision:
        raise CheckpointError(f"{directory / MANIFEST_FILE} is damaged: its revision is not that of its hashes")
    return revision


def describe(directory: Path) -> dict[str, Any]:
    """Describe a checkpoint in plain values: shape, size, revision, labels, languages, the dial's curve."""
    checkpoint = load(directory)
    calibration = checkpoint.calibration
    return {
        "name": calibration.name,
        "revision": checkpoint.revision,
        "directory": str(directory),
        "bytes": sum(file.stat().st_size for file in directory.iterdir() if file.is_file()),
        "parameters": sum(value.numel() for value in checkpoint.model.parameters()),
        "model": checkpoint.model.config.to_json(),
        "languages": list(calibration.languages),
        "max_tokens": calibration.max_tokens,
        "temperatures": list(calibration.temperatures),
        "default_dial": calibration.default_dial,
        "curve": [point.to_json() for point in calibration.curve],
        "predicts_depth": calibration.token_table is not None,
    }


def _token_table(directory: Path) -> NDArray[np.float32] | None:
    file = directory / TOKEN_TABLE_FILE
    if not file.is_file():
        return None
    try:
        return load_file(file)["token_depths"].float().numpy()
    except safetensors.SafetensorError as error:
        raise ValueError(f"{TOKEN_TABLE_FILE}: {error}") from error


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _revision(hashes: dict[str, str]) -> str:
    parts = json.dumps([[name, hashes[name]] for name in _HASHED if name in hashes])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
