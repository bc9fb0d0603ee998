"""A checkpoint on disk: load, save, verify, describe.

A directory with ``config.json``, the weights in ``int8.safetensors`` or, in floating point, ``model.safetensors``
(Hugging Face's names), ``tokenizer.json``,
``calibration.json``, ``token_depths.safetensors`` if the model predicts exit depths, ``README.md`` (the model card),
and ``manifest.json`` with the SHA-256 of each file that predictions depend on. The *revision* is a hash over these: it
changes with the weights, the tokenizer and the calibration. Nothing is ever unpickled.
This module knows files; nothing of devices or batches.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.config import Config
from earlybell.inference.model.huggingface import CONFIG_FILE, WEIGHTS_FILE, read_served, write_pretrained
from earlybell.inference.model.tokenizer import Reader
from earlybell.inference.model.weights import (
    INT8_FILE,
    CheckpointError,
    Weights,
    as_float32,
    parameters,
    read_arrays,
    write_int8,
)

__all__ = ["SHIPPED", "Checkpoint", "CheckpointError", "describe", "load", "quantise", "save", "verify"]

#: The checkpoint shipped with the package.
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "elbert-small"

TOKENIZER_FILE = "tokenizer.json"
CALIBRATION_FILE = "calibration.json"
TOKEN_TABLE_FILE = "token_depths.safetensors"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory, as plain arrays; `elbert.ElbertForSequenceClassification.of` makes it a torch model."""

    directory: Path
    config: Config
    weights: Weights
    reader: Reader
    calibration: Calibration
    revision: str


class Model(Protocol):
    """What `save` needs of a model."""

    @property
    def config(self) -> Config:
        """Its shape."""
        ...

    def weights(self) -> dict[str, NDArray[Any]]:
        """Its weights by name."""
        ...


def load(directory: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises
    ------
    CheckpointError
        It is missing, damaged (a file does not match its hash in the manifest) or not a checkpoint. One line that says
        what to do.
    """
    revision = verify(directory)
    config, weights = read_served(directory)
    try:
        values = json.loads((directory / CALIBRATION_FILE).read_text(encoding="utf-8"))
        calibration = Calibration.from_json(values, _token_table(directory))
        reader = Reader.open(directory / TOKENIZER_FILE, calibration.max_tokens, figures=config.figures)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{directory} has a tokenizer or calibration that cannot be used: {error}") from error
    if len(calibration.temperatures) != len(config.depths):
        raise CheckpointError(f"{directory}: calibration is for {len(calibration.temperatures)} exits, "
                              f"the model has {len(config.depths)}: run `earlybell calibrate` again")  # fmt: skip
    largest = max(reader.vocabulary.values())
    if largest >= config.vocabulary:
        raise CheckpointError(f"{directory}: the tokenizer has a token {largest}, but the vocabulary ends at "
                              f"{config.vocabulary - 1}: use the tokenizer of the model")  # fmt: skip
    if calibration.max_tokens > config.positions:
        raise CheckpointError(f"{directory}: the length limit of {calibration.max_tokens} tokens exceeds the model's "
                              f"{config.positions} positions: run `earlybell calibrate` again")  # fmt: skip
    table = calibration.token_table
    if table is not None and table.shape != (config.vocabulary, len(config.depths)):
        raise CheckpointError(f"{directory}: the token table is of another model: run `earlybell calibrate` again")
    return Checkpoint(directory, config, weights, reader, calibration, revision)


def save(
    model: Model,
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
    weights = model.weights()
    if half:
        with np.errstate(over="ignore"):
            weights = {name: value.astype(np.float16) for name, value in weights.items()}
        if not all(np.isfinite(value).all() for value in weights.values()):
            raise CheckpointError("a weight is beyond the range of float16: save with half=False")
    write_pretrained(model.config, weights, directory)
    if tokenizer_file.resolve() != (directory / TOKENIZER_FILE).resolve():
        shutil.copyfile(tokenizer_file, directory / TOKENIZER_FILE)
    write_calibration(calibration, directory)
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
        save_file({"token_depths": calibration.token_table.astype(np.float16)}, table)


def quantise(directory: Path, *, keep_floats: bool = False) -> str:
    """Store a checkpoint's weights in int8, exactly as they are served, and return its new revision.

    The kernels' matrices stay as they were served before; the token embeddings, rounded to 127 steps of their largest
    value, change the answers in the last digits.

    Parameters
    ----------
    keep_floats
        Keep ``model.safetensors``, for further training; it is no longer what is served.

    Raises
    ------
    CheckpointError
        It cannot be loaded, or is in int8 already.
    """
    if (directory / INT8_FILE).is_file():
        raise CheckpointError(f"{directory} is in int8 already")
    write_int8(load(directory).weights, directory)
    if not keep_floats:
        (directory / WEIGHTS_FILE).unlink()
    return seal(directory)


def seal(directory: Path) -> str:
    """Write the manifest of the directory's files and return the revision."""
    for name in (WEIGHTS_FILE, INT8_FILE, TOKEN_TABLE_FILE):
        if (directory / name).is_file():
            (directory / name).chmod(0o644)  # safetensors makes files private, but a package is for all users
    served = _served(directory)
    hashes = {name: _hash(directory / name) for name in served if (directory / name).is_file()}
    revision = _revision(served, hashes)
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
    served = _served(directory)
    for name in served:
        if name not in hashes and name != TOKEN_TABLE_FILE:
            raise CheckpointError(f"{directory} is incomplete: its manifest has no {name}")
    for name in served:
        file = directory / name
        if name in hashes and not file.is_file():
            raise CheckpointError(f"{directory} is incomplete: {name} is missing; fetch it again")
        if file.is_file() and _hash(file) != hashes.get(name):
            raise CheckpointError(f"{file} is damaged or was changed: it does not match the manifest; fetch it again")
    if _revision(served, hashes) != revision:
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
        "parameters": parameters(checkpoint.config),
        "weights": served_weights(directory).name,
        "model": checkpoint.config.to_json(),
        "languages": list(calibration.languages),
        "max_tokens": calibration.max_tokens,
        "temperatures": list(calibration.temperatures),
        "sharpening": list(calibration.sharpening),
        "default_dial": calibration.default_dial,
        "curve": [point.to_json() for point in calibration.curve],
        "predicts_depth": calibration.token_table is not None,
    }


def _token_table(directory: Path) -> NDArray[np.float32] | None:
    file = directory / TOKEN_TABLE_FILE
    if not file.is_file():
        return None
    return as_float32(read_arrays(file)["token_depths"])


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def served_weights(directory: Path) -> Path:
    """Return the file of weights that a checkpoint is served from."""
    int8 = directory / INT8_FILE
    return int8 if int8.is_file() else directory / WEIGHTS_FILE


def _served(directory: Path) -> tuple[str, ...]:
    """Return the files that predictions depend on, in the order of hashing; there may be no token table."""
    return CONFIG_FILE, served_weights(directory).name, TOKENIZER_FILE, CALIBRATION_FILE, TOKEN_TABLE_FILE


def _revision(served: Sequence[str], hashes: dict[str, str]) -> str:
    parts = json.dumps([[name, hashes[name]] for name in served if name in hashes])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
