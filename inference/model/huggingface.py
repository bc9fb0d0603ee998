"""Hugging Face ALBERT and BERT checkpoints, read as ELBERT and written back.

A directory holds ``config.json`` and ``model.safetensors`` under Hugging Face's names, so that transformers can read
the encoder; what ELBERT adds (its `Config`, the exits) stands beside them. Weights are never read from pickles.
It knows names and shapes; nothing of tokenizers, calibration or devices.
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

from earlybell.inference.model.elbert import Config

if TYPE_CHECKING:
    from earlybell.inference.model.elbert import ElbertForSequenceClassification

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class CheckpointError(Exception):
    """A checkpoint that cannot be used: missing, damaged or foreign. One line that says which and what to do."""


#: Ours -> theirs, inside one layer. The three attention products are one matrix here and three there.
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
    """Configuration and weights of a checkpoint, under ELBERT's names.

    Parameters
    ----------
    source
        A directory, or an id on the Hugging Face hub.
    **changes
        Fields of `Config` to set otherwise. ``groups`` below the checkpoint's starts each group from the mean of the
        layers that it stands for.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, or neither an ALBERT nor a BERT.
    """
    directory = _directory_of(source)
    found = _read_json(directory / CONFIG_FILE)
    theirs = _read_weights(directory / WEIGHTS_FILE)
    try:
        config = Config.from_json(found["elbert"]) if "elbert" in found else _config_of(found, _classes_in(theirs))
        weights = _to_ours(config, theirs)
        groups = changes.get("groups", config.groups)
        if groups < config.groups:
            weights = _merge_groups(weights, config.groups, groups)
        config = replace(config, **changes)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory} is not a checkpoint that ELBERT can read: {error}") from error
    return config, _fitting(config, weights)


def write_pretrained(model: ElbertForSequenceClassification, directory: str | PathLike[str]) -> None:
    """Write ``config.json`` and ``model.safetensors``; see `ElbertForSequenceClassification.save_pretrained`."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in _to_theirs(model.config, model.state_dict())
    }
    save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
    (target / CONFIG_FILE).write_text(json.dumps(_config_for(model.config), indent=2) + "\n", encoding="utf-8")


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
        raise CheckpointError(f"{source} is neither a directory nor a model that can be fetched: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path.parent}: it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return found


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no weights at {path} (only safetensors are read, never pickles)")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


def _classes_in(weights: dict[str, Tensor]) -> int | None:
    classifier = weights.get("classifier.weight")
    return None if classifier is None else len(classifier)


def _config_of(found: dict[str, Any], classes: int | None) -> Config:
    """The paper's ELBERT on a Hugging Face checkpoint: its own pooler and classifier at every depth, on [CLS]."""
    kind = found.get("model_type")
    if kind not in ("albert", "bert"):
        raise ValueError(f"its model_type is {kind!r}, not 'albert' or 'bert'")
    if found.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError("it has relative positions; only absolute ones are supported")
    layers = found["num_hidden_layers"]
    names = found.get("id2label") or {}
    labels = tuple(names[key] for key in sorted(names, key=int))
    if classes is not None and len(labels) != classes:
        labels = tuple(f"LABEL_{index}" for index in range(classes))
    return Config(
        vocabulary=found["vocab_size"],
        embedding=found["embedding_size"] if kind == "albert" else found["hidden_size"],
        hidden=found["hidden_size"],
        heads=found["num_attention_heads"],
        feed_forward=found["intermediate_size"],
        layers=layers,
        groups=found.get("num_hidden_groups", 1) if kind == "albert" else layers,
        inner_layers=found.get("inner_group_num", 1) if kind == "albert" else 1,
        positions=found["max_position_embeddings"],
        token_types=found["type_vocab_size"],
        projection=kind == "albert",
        activation=found["hidden_act"],
        norm_epsilon=found["layer_norm_eps"],
        head="cls",
        head_hidden=found["hidden_size"],
        shared_head=True,
        depth_zero=False,
        pad_id=found.get("pad_token_id") or 0,
        labels=labels or ("LABEL_0", "LABEL_1"),
    )


def _config_for(config: Config) -> dict[str, Any]:
    kind = "bert" if _is_bert(config) else "albert"
    found: dict[str, Any] = {
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
        found |= {
            "embedding_size": config.embedding,
            "num_hidden_groups": config.groups,
            "inner_group_num": config.inner_layers,
            "classifier_dropout_prob": config.dropout,
        }
    return {**found, "elbert": config.to_json()}


def _is_bert(config: Config) -> bool:
    return config.groups == config.layers and config.inner_layers == 1 and not config.projection


def _prefixes(config: Config) -> Iterator[tuple[str, str]]:
    """Our prefix and theirs of every layer."""
    for group in range(config.groups):
        for inner in range(config.inner_layers):
            theirs = (
                f"encoder.layer.{group}"
                if _is_bert(config)
                else f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            )
            yield f"layers.{group}.{inner}", theirs


def _to_ours(config: Config, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    kind = "bert" if _is_bert(config) else "albert"
    # The backbone alone is stored without its name in front.
    encoder = {name.removeprefix(f"{kind}."): value for name, value in theirs.items()}
    ours = {f"embedding.{name}": encoder[f"embeddings.{other}"] for name, other in _EMBEDDING.items()}
    if config.projection:
        for part in ("weight", "bias"):
            ours[f"embedding.projection.{part}"] = encoder[f"encoder.embedding_hidden_mapping_in.{part}"]
    names, qkv = (_BERT_LAYER, _BERT_QKV) if kind == "bert" else (_ALBERT_LAYER, _ALBERT_QKV)
    for mine, prefix in _prefixes(config):
        for part in ("weight", "bias"):
            ours[f"{mine}.qkv.{part}"] = torch.cat([encoder[f"{prefix}.{name}.{part}"] for name in qkv])
            for name, other in names.items():
                ours[f"{mine}.{name}.{part}"] = encoder[f"{prefix}.{other}.{part}"]
    ours |= {name: value for name, value in theirs.items() if name.startswith(("exits.", "exit_zero."))}
    pooler = "pooler.dense" if kind == "bert" else "pooler"
    for part in ("weight", "bias"):
        if f"{pooler}.{part}" in encoder:
            ours.setdefault(f"exits.0.pooler.{part}", encoder[f"{pooler}.{part}"])
        if f"classifier.{part}" in theirs:
            ours.setdefault(f"exits.0.classifier.{part}", theirs[f"classifier.{part}"])
    return ours


def _to_theirs(config: Config, ours: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    kind = "bert" if _is_bert(config) else "albert"
    for name, other in _EMBEDDING.items():
        yield f"{kind}.embeddings.{other}", ours[f"embedding.{name}"]
    if kind == "albert":
        weight = ours.get("embedding.projection.weight")
        if weight is None:  # ALBERT always projects: give it the identity
            like = ours["embedding.token.weight"]
            identity = torch.eye(config.hidden, dtype=like.dtype, device=like.device)
            yield "albert.encoder.embedding_hidden_mapping_in.weight", identity
            yield "albert.encoder.embedding_hidden_mapping_in.bias", torch.zeros_like(identity[0])
        else:
            yield "albert.encoder.embedding_hidden_mapping_in.weight", weight
            yield "albert.encoder.embedding_hidden_mapping_in.bias", ours["embedding.projection.bias"]
    names, qkv = (_BERT_LAYER, _BERT_QKV) if kind == "bert" else (_ALBERT_LAYER, _ALBERT_QKV)
    for mine, prefix in _prefixes(config):
        for part in ("weight", "bias"):
            for name, value in zip(qkv, ours[f"{mine}.qkv.{part}"].chunk(3), strict=True):
                yield f"{kind}.{prefix}.{name}.{part}", value
            for name, other in names.items():
                yield f"{kind}.{prefix}.{other}.{part}", ours[f"{mine}.{name}.{part}"]
    # The paper's form, one pooler and classifier for all depths, is transformers' own; other exits stand beside it.
    transformers_head = config.shared_head and config.head == "cls" and config.head_hidden == config.hidden
    pooler = "bert.pooler.dense" if kind == "bert" else "albert.pooler"
    for name, value in ours.items():
        if transformers_head and name.startswith("exits.0.pooler."):
            yield name.replace("exits.0.pooler", pooler), value
        elif transformers_head and name.startswith("exits.0.classifier."):
            yield name.removeprefix("exits.0."), value
        elif name.startswith(("exits.", "exit_zero.")):
            yield name, value


def _merge_groups(weights: dict[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Start each of ``new`` groups from the mean of the ``old`` ones that it stands for."""
    merged = {name: value for name, value in weights.items() if not name.startswith("layers.")}
    for name in [name for name in weights if name.startswith("layers.0.")]:
        tail = name.removeprefix("layers.0.")
        for group in range(new):
            members = [index for index in range(old) if index * new // old == group]
            stack = torch.stack([weights[f"layers.{index}.{tail}"].float() for index in members])
            merged[f"layers.{group}.{tail}"] = stack.mean(0).to(weights[name].dtype)
    return merged


def _fitting(config: Config, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Only the weights that a model of this configuration has a place for; heads may have been changed."""
    from earlybell.inference.model.elbert import ElbertForSequenceClassification

    with torch.device("meta"), _Uninitialised():
        shapes = {name: value.shape for name, value in ElbertForSequenceClassification(config).state_dict().items()}
    fitting = {name: value for name, value in weights.items() if shapes.get(name) == value.shape}
    lacking = [name for name in shapes if name not in fitting and not name.startswith(("exits.", "exit_zero."))]
    if lacking:
        raise CheckpointError(f"the checkpoint lacks {lacking[0]} of shape {tuple(shapes[lacking[0]])}")
    return fitting


class _Uninitialised(TorchFunctionMode):
    """Leaves out the initialisation of weights: on the meta device it would import torch's compiler, for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
