"""Read Hugging Face ALBERT and BERT checkpoints as ELBERT, and write them.

A directory holds ``config.json`` and ``model.safetensors`` in Hugging Face's naming, so that transformers can load the
encoder, with ELBERT's additions (its `Config`, the exits) beside it. Weights are never read from pickles.
This module knows names and shapes; nothing of tokenizers, calibration or devices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from earlybell.errors import UserError
from earlybell.inference.model.config import Config

if TYPE_CHECKING:
    from earlybell.inference.model.elbert import ElbertForSequenceClassification

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another kind. The message is one line that says what to do."""


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


def read_pretrained(source: str | PathLike[str], **changes: Any) -> tuple[Config, dict[str, Tensor]]:
    """Read a checkpoint's configuration and weights, in ELBERT's naming.

    Parameters
    ----------
    source
        A directory, or an id on the Hugging Face hub.
    **changes
        Fields of `Config` that override the checkpoint's. With fewer ``groups``, each starts as the mean of the groups
        that it replaces.

    Raises
    ------
    CheckpointError
        The checkpoint is missing, damaged, or neither an ALBERT nor a BERT.
    """
    directory = _directory_of(source)
    values = _read_json(directory / CONFIG_FILE)
    stored = _read_weights(directory / WEIGHTS_FILE)
    try:
        if "elbert" in values:
            config = Config.from_json(values["elbert"])
        else:
            config = _config_from_huggingface(values, _count_classes(stored))
        weights = _weights_from_huggingface(config, stored)
        groups = changes.get("groups", config.groups)
        if groups < config.groups:
            weights = _merge_groups(weights, config.groups, groups)
        config = replace(config, **changes)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} is not a checkpoint that ELBERT can read: {error}") from error
    return config, _matching(config, weights)


def write_pretrained(model: ElbertForSequenceClassification, directory: str | PathLike[str]) -> None:
    """Write ``config.json`` and ``model.safetensors``; see `ElbertForSequenceClassification.save_pretrained`."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in _weights_to_huggingface(model.config, model.state_dict())
    }
    save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
    (target / CONFIG_FILE).write_text(
        json.dumps(_config_to_huggingface(model.config), indent=2) + "\n", encoding="utf-8"
    )


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


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no weights at {path} (only safetensors are read, never pickles)")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error


def _count_classes(weights: dict[str, Tensor]) -> int | None:
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


def _weights_from_huggingface(config: Config, stored: dict[str, Tensor]) -> dict[str, Tensor]:
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
            weights[f"{layer}.qkv.{part}"] = torch.cat([encoder[f"{prefix}.{name}.{part}"] for name in qkv])
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


def _weights_to_huggingface(config: Config, weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    kind = "bert" if _is_bert(config) else "albert"
    for name, other in _EMBEDDING.items():
        yield f"{kind}.embeddings.{other}", weights[f"embedding.{name}"]
    if kind == "albert":
        projection = weights.get("embedding.projection.weight")
        if projection is None:  # ALBERT always projects: write the identity
            token = weights["embedding.token.weight"]
            identity = torch.eye(config.hidden, dtype=token.dtype, device=token.device)
            yield "albert.encoder.embedding_hidden_mapping_in.weight", identity
            yield "albert.encoder.embedding_hidden_mapping_in.bias", torch.zeros_like(identity[0])
        else:
            yield "albert.encoder.embedding_hidden_mapping_in.weight", projection
            yield "albert.encoder.embedding_hidden_mapping_in.bias", weights["embedding.projection.bias"]
    names, qkv = (_BERT_LAYER, _BERT_QKV) if kind == "bert" else (_ALBERT_LAYER, _ALBERT_QKV)
    for layer, prefix in _prefixes(config):
        for part in ("weight", "bias"):
            for name, value in zip(qkv, weights[f"{layer}.qkv.{part}"].chunk(3), strict=True):
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


def _merge_groups(weights: dict[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Merge ``old`` groups into ``new`` ones, each the mean of the groups that it replaces."""
    merged = {name: value for name, value in weights.items() if not name.startswith("layers.")}
    for name in [name for name in weights if name.startswith("layers.0.")]:
        tail = name.removeprefix("layers.0.")
        for group in range(new):
            members = [index for index in range(old) if index * new // old == group]
            stack = torch.stack([weights[f"layers.{index}.{tail}"].float() for index in members])
            merged[f"layers.{group}.{tail}"] = stack.mean(0).to(weights[name].dtype)
    return merged


def _matching(config: Config, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that match this configuration by name and shape; the heads may differ."""
    from earlybell.inference.model.elbert import ElbertForSequenceClassification

    with torch.device("meta"), _Uninitialised():
        shapes = {name: value.shape for name, value in ElbertForSequenceClassification(config).state_dict().items()}
    matching = {name: value for name, value in weights.items() if shapes.get(name) == value.shape}
    missing = [name for name in shapes if name not in matching and not name.startswith(("exits.", "exit_zero."))]
    if missing:
        raise CheckpointError(f"the checkpoint lacks {missing[0]} of shape {tuple(shapes[missing[0]])}")
    return matching


class _Uninitialised(TorchFunctionMode):
    """Skips weight initialisation, which on the meta device would import torch's compiler and take seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
