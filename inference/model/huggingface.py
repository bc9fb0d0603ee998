"""Read Hugging Face ALBERT and BERT checkpoints as ELBERT, and write them.

A directory holds ``config.json`` and ``model.safetensors`` in Hugging Face's naming, so that transformers can load the
encoder, with ELBERT's additions (its `Config`, the exits) beside it. Weights are never read from pickles.
This module knows names and shapes; nothing of tokenizers, calibration or devices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from earlybell.inference.model.config import Config
from earlybell.inference.model.weights import (
    INT8_FILE,
    CheckpointError,
    Weights,
    as_float32,
    check,
    read_arrays,
    read_int8,
    shapes,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

#: ELBERT's name -> Hugging Face's, inside one layer. Query, key and value are one matrix in ELBERT and three there.
_BERT_LAYER = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward_in": "intermediate.dense",
    "feed_forward_out": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_BERT_QKV = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
_ALBERT_LAYER = {
    "attention_out": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "feed_forward_in": "ffn",
    "feed_forward_out": "ffn_output",
    "feed_forward_norm": "full_layer_layer_norm",
}
_ALBERT_QKV = tuple(f"attention.{name}" for name in ("query", "key", "value"))
_EMBEDDING = {
    "token.weight": "word_embeddings.weight",
    "position.weight": "position_embeddings.weight",
    "token_type.weight": "token_type_embeddings.weight",
    "norm.weight": "LayerNorm.weight",
    "norm.bias": "LayerNorm.bias",
}


def read_pretrained(source: str | PathLike[str], **changes: Any) -> tuple[Config, dict[str, NDArray[Any]]]:
    """Read a checkpoint's configuration and weights, in ELBERT's naming.

    Parameters
    ----------
    source
        A directory, or an id on the Hugging Face hub.
    **changes
        Fields of `Config` that override the checkpoint's. With fewer ``groups``, each starts as the mean of the groups
        that it replaces. With fewer ``layers`` than sets of weights, each layer's its own, the first are kept.

    Raises
    ------
    CheckpointError
        The checkpoint is missing, damaged, or neither an ALBERT nor a BERT.
    """
    directory = _directory_of(source)
    values = _read_json(directory / CONFIG_FILE)
    try:
        if "elbert" in values and not (directory / WEIGHTS_FILE).is_file() and (directory / INT8_FILE).is_file():
            config = Config.from_json(values["elbert"])
            weights = {name: as_float32(value) for name, value in read_int8(directory, config).items()}
        else:
            config, weights = _read_floats(directory, values)
        layers = changes.get("layers", config.layers)
        if config.groups == config.layers > layers:
            config = replace(config, layers=layers, groups=layers)
        groups = changes.get("groups", config.groups)
        if groups < config.groups:
            weights = _merge_groups(weights, config.groups, groups)
        config = replace(config, **changes)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} is not a checkpoint that ELBERT can read: {error}") from error
    return config, _matching(config, weights)


def read_served(directory: Path) -> tuple[Config, Weights]:
    """Read the weights that a checkpoint of ours is served from: in int8 if it has them, else in floating point.

    Raises
    ------
    CheckpointError
        The weights are missing, damaged or incomplete, or one of them is not a finite number.
    """
    values = _read_json(directory / CONFIG_FILE)
    weights: Weights
    try:
        if (directory / INT8_FILE).is_file():
            config = Config.from_json(values["elbert"])
            weights = read_int8(directory, config)
        else:
            config, floats = _read_floats(directory, values)
            weights = _matching(config, floats)
            check(config, weights, directory / WEIGHTS_FILE)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} is not a checkpoint that ELBERT can read: {error}") from error
    return config, weights


def write_pretrained(config: Config, weights: Arrays, directory: str | PathLike[str]) -> None:
    """Write ``config.json`` and ``model.safetensors``; see `ElbertForSequenceClassification.save_pretrained`."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    stored = {name: np.ascontiguousarray(value) for name, value in _weights_to_huggingface(config, weights)}
    save_file(stored, target / WEIGHTS_FILE, metadata={"format": "pt"})
    (target / INT8_FILE).unlink(missing_ok=True)  # of the weights that were here before
    (target / CONFIG_FILE).write_text(json.dumps(_config_to_huggingface(config), indent=2) + "\n", encoding="utf-8")


def _directory_of(source: str | PathLike[str]) -> Path:
    directory = Path(source)
    if directory.is_dir():
        return directory
    if directory.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        raise CheckpointError(f"no checkpoint at {source}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, "tokenizer*", "vocab*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise CheckpointError(f"{source} is neither a directory nor a model that can be downloaded: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path.parent}: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return values


def _read_floats(directory: Path, values: dict[str, Any]) -> tuple[Config, dict[str, NDArray[Any]]]:
    stored = read_arrays(directory / WEIGHTS_FILE)
    if "elbert" in values:
        config = Config.from_json(values["elbert"])
    else:
        config = _config_from_huggingface(values, _count_classes(stored))
    return config, _weights_from_huggingface(config, stored)


def _count_classes(weights: Arrays) -> int | None:
    classifier = weights.get("classifier.weight")
    return None if classifier is None else len(classifier)


def _config_from_huggingface(values: dict[str, Any], classes: int | None) -> Config:
    """Return the paper's ELBERT for a checkpoint: its own pooler and classifier at every depth, on [CLS]."""
    kind = values.get("model_type")
    if kind not in ("albert", "bert"):
        raise ValueError(f"its model_type is {kind!r}, not 'albert' or 'bert'")
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError("it has relative positions; only absolute ones are supported")
    layers = values["num_hidden_layers"]
    names = values.get("id2label") or {}
    labels = tuple(names[key] for key in sorted(names, key=int))
    if classes is not None and len(labels) != classes:
        labels = tuple(f"LABEL_{index}" for index in range(classes))
    return Config(
        vocabulary=values["vocab_size"],
        embedding=values["embedding_size"] if kind == "albert" else values["hidden_size"],
        hidden=values["hidden_size"],
        heads=values["num_attention_heads"],
        feed_forward=values["intermediate_size"],
        layers=layers,
        groups=values.get("num_hidden_groups", 1) if kind == "albert" else layers,
        inner_layers=values.get("inner_group_num", 1) if kind == "albert" else 1,
        positions=values["max_position_embeddings"],
        token_types=values["type_vocab_size"],
        projection=kind == "albert",
        activation=values["hidden_act"],
        norm_epsilon=values["layer_norm_eps"],
        head="cls",
        head_hidden=values["hidden_size"],
        shared_head=True,
        depth_zero=False,
        pad_id=values.get("pad_token_id") or 0,
        labels=labels or ("LABEL_0", "LABEL_1"),
    )


def _config_to_huggingface(config: Config) -> dict[str, Any]:
    kind = "bert" if _is_bert(config) else "albert"
    values: dict[str, Any] = {
        "architectures": ["BertForSequenceClassification" if kind == "bert" else "AlbertForSequenceClassification"],
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": config.pad_id,
        "id2label": {str(index): label for index, label in enumerate(config.labels)},
        "label2id": {label: index for index, label in enumerate(config.labels)},
    }
    if kind == "albert":
        values |= {
            "embedding_size": config.embedding,
            "num_hidden_groups": config.groups,
            "inner_group_num": config.inner_layers,
            "classifier_dropout_prob": config.dropout,
        }
    return {**values, "elbert": config.to_json()}


def _is_bert(config: Config) -> bool:
    return config.groups == config.layers and config.inner_layers == 1 and not config.projection


def _prefixes(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the prefix of every layer, in ELBERT's and in Hugging Face's naming."""
    for group in range(config.groups):
        for inner in range(config.inner_layers):
            huggingface = (
                f"encoder.layer.{group}"
                if _is_bert(config)
                else f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            )
            yield f"layers.{group}.{inner}", huggingface


def _weights_from_huggingface(config: Config, stored: Arrays) -> dict[str, NDArray[Any]]:
    kind = "bert" if _is_bert(config) else "albert"
    # A backbone saved without a head lacks the prefix.
    encoder = {name.removeprefix(f"{kind}."): value for name, value in stored.items()}
    weights = {f"embedding.{name}": encoder[f"embeddings.{other}"] for name, other in _EMBEDDING.items()}
    if config.projection:
        for part in ("weight", "bias"):
            weights[f"embedding.projection.{part}"] = encoder[f"encoder.embedding_hidden_mapping_in.{part}"]
    names, qkv = (_BERT_LAYER, _BERT_QKV) if kind == "bert" else (_ALBERT_LAYER, _ALBERT_QKV)
    for layer, prefix in _prefixes(config):
        for part in ("weight", "bias"):
            weights[f"{layer}.qkv.{part}"] = np.concatenate([encoder[f"{prefix}.{name}.{part}"] for name in qkv])
            for name, other in names.items():
                weights[f"{layer}.{name}.{part}"] = encoder[f"{prefix}.{other}.{part}"]
    weights |= {name: value for name, value in stored.items() if name.startswith(("exits.", "exit_zero."))}
    pooler = "pooler.dense" if kind == "bert" else "pooler"
    for part in ("weight", "bias"):
        if f"{pooler}.{part}" in encoder:
            weights.setdefault(f"exits.0.pooler.{part}", encoder[f"{pooler}.{part}"])
        if f"classifier.{part}" in stored:
            weights.setdefault(f"exits.0.classifier.{part}", stored[f"classifier.{part}"])
    return weights


def _weights_to_huggingface(config: Config, weights: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
    kind = "bert" if _is_bert(config) else "albert"
    for name, other in _EMBEDDING.items():
        yield f"{kind}.embeddings.{other}", weights[f"embedding.{name}"]
    if kind == "albert":
        projection = weights.get("embedding.projection.weight")
        if projection is None:  # ALBERT always projects: write the identity
            token = weights["embedding.token.weight"]
            identity = np.eye(config.hidden, dtype=token.dtype)
            yield "albert.encoder.embedding_hidden_mapping_in.weight", identity
            yield "albert.encoder.embedding_hidden_mapping_in.bias", np.zeros_like(identity[0])
        else:
            yield "albert.encoder.embedding_hidden_mapping_in.weight", projection
            yield "albert.encoder.embedding_hidden_mapping_in.bias", weights["embedding.projection.bias"]
    names, qkv = (_BERT_LAYER, _BERT_QKV) if kind == "bert" else (_ALBERT_LAYER, _ALBERT_QKV)
    for layer, prefix in _prefixes(config):
        for part in ("weight", "bias"):
            for name, value in zip(qkv, np.split(weights[f"{layer}.qkv.{part}"], 3), strict=True):
                yield f"{kind}.{prefix}.{name}.{part}", value
            for name, other in names.items():
                yield f"{kind}.{prefix}.{other}.{part}", weights[f"{layer}.{name}.{part}"]
    # transformers knows the paper's form, one pooler and classifier for all depths; other exits keep ELBERT's names.
    transformers_head = config.shared_head and config.head == "cls" and config.head_hidden == config.hidden
    pooler = "bert.pooler.dense" if kind == "bert" else "albert.pooler"
    for name, value in weights.items():
        if transformers_head and name.startswith("exits.0.pooler."):
            yield name.replace("exits.0.pooler", pooler), value
        elif transformers_head and name.startswith("exits.0.classifier."):
            yield name.removeprefix("exits.0."), value
        elif name.startswith(("exits.", "exit_zero.")):
            yield name, value


def _merge_groups(weights: Arrays, old: int, new: int) -> dict[str, NDArray[Any]]:
    """Merge ``old`` groups into ``new`` ones, each the mean of the groups that it replaces."""
    merged = {name: value for name, value in weights.items() if not name.startswith("layers.")}
    for name in [name for name in weights if name.startswith("layers.0.")]:
        tail = name.removeprefix("layers.0.")
        for group in range(new):
            members = [index for index in range(old) if index * new // old == group]
            stack = np.stack([as_float32(weights[f"layers.{index}.{tail}"]) for index in members])
            merged[f"layers.{group}.{tail}"] = stack.mean(0).astype(weights[name].dtype)
    return merged


def _matching(config: Config, weights: Arrays) -> dict[str, NDArray[Any]]:
    """Return the weights that match this configuration by name and shape; the heads may differ."""
    wanted = shapes(config)
    matching = {name: value for name, value in weights.items() if wanted.get(name) == value.shape}
    missing = [name for name in wanted if name not in matching and not name.startswith(("exits.", "exit_zero."))]
    if missing:
        raise CheckpointError(f"the checkpoint lacks {missing[0]} of shape {wanted[missing[0]]}")
    return matching
