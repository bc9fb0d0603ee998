"""Checkpoints that transformers writes, read as ELBERT; and ELBERT's, read back by both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers  # its models take seconds to import: only when they are used

from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.model.weights import CheckpointError

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 40, "id2label": {0: "bad", 1: "so-so", 2: "good", 3: "odd"},
         "label2id": {"bad": 0, "so-so": 1, "good": 2, "odd": 3}}  # fmt: skip
SMALL = Config(vocabulary=99, embedding=32, hidden=32, heads=4, feed_forward=64, layers=4, positions=40)
IDS = torch.randint(1, 99, (5, 14), generator=torch.Generator().manual_seed(0))
LIVE = torch.arange(14) < torch.tensor([14, 3, 9, 14, 1])[:, None]


def albert(**changes: Any) -> transformers.AlbertForSequenceClassification:
    torch.manual_seed(1)
    return transformers.AlbertForSequenceClassification(
        transformers.AlbertConfig(**{**SIZES, "embedding_size": 16, **changes})
    ).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 6, "num_hidden_groups": 3},
        {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
        {"num_hidden_layers": 3, "hidden_act": "gelu", "embedding_size": 32},
    ],
)
def test_an_albert_from_transformers_keeps_its_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    original = albert(**changes)
    original.save_pretrained(tmp_path)
    elbert = ElbertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert elbert.config.labels == ("bad", "so-so", "good", "odd")
    assert elbert.new_weights == ()
    with torch.inference_mode():
        expected = original(IDS, attention_mask=LIVE.long()).logits
        assert torch.allclose(elbert(IDS, LIVE)[:, -1], expected, atol=1e-5)


def test_a_bert_from_transformers_is_an_albert_with_one_group_per_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_hidden_layers=3)).eval()
    original.save_pretrained(tmp_path)
    elbert = ElbertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (elbert.config.groups, elbert.config.layers, elbert.config.projection) == (3, 3, False)
    with torch.inference_mode():
        expected = original(IDS, attention_mask=LIVE.long()).logits
        assert torch.allclose(elbert(IDS, LIVE)[:, -1], expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, embedding=16, projection=True),
        replace(SMALL, groups=2),
        replace(SMALL, groups=4),
        replace(SMALL, head="cls", head_hidden=32, shared_head=True, depth_zero=False),
    ],
    ids=["factorised", "groups", "bert", "the paper's"],
)
def test_a_saved_model_is_restored_bit_for_bit(tmp_path: Path, config: Config) -> None:
    torch.manual_seed(2)
    model = ElbertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "first")
    restored = ElbertForSequenceClassification.from_pretrained(tmp_path / "first").eval()
    assert restored.config == config
    assert restored.new_weights == ()
    for name, value in model.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name
    restored.save_pretrained(tmp_path / "second")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    with torch.inference_mode():
        assert torch.equal(model(IDS, LIVE), restored(IDS, LIVE))


def test_an_albert_survives_the_round_trip_through_elbert(tmp_path: Path) -> None:
    """transformers -> ELBERT -> transformers: all weights are restored bit for bit."""
    original = albert(num_hidden_layers=4, num_hidden_groups=2)
    original.save_pretrained(tmp_path / "albert")
    ElbertForSequenceClassification.from_pretrained(tmp_path / "albert").save_pretrained(tmp_path / "elbert")
    restored = transformers.AlbertForSequenceClassification.from_pretrained(tmp_path / "elbert")
    for name, value in original.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name
    assert restored.config.id2label == original.config.id2label


def test_transformers_loads_the_encoder_of_a_model_without_a_projection(tmp_path: Path) -> None:
    config = replace(SMALL, layers=5)
    elbert = ElbertForSequenceClassification(config).eval()
    elbert.save_pretrained(tmp_path)
    loaded = transformers.AlbertModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        x = elbert.embed(IDS)
        for depth in range(1, 6):
            x, _ = elbert.deepen(x, LIVE, depth)
        expected = loaded(IDS, attention_mask=LIVE.long()).last_hidden_state
    assert torch.allclose(x[LIVE], expected[LIVE], atol=1e-5)


def test_fewer_groups_start_as_means(tmp_path: Path) -> None:
    original = albert(num_hidden_layers=4, num_hidden_groups=4)
    original.save_pretrained(tmp_path)
    four = ElbertForSequenceClassification.from_pretrained(tmp_path)
    two = ElbertForSequenceClassification.from_pretrained(tmp_path, groups=2)
    name = "feed_forward_in.weight"
    mean = (four.state_dict()[f"layers.2.0.{name}"] + four.state_dict()[f"layers.3.0.{name}"]) / 2
    assert torch.allclose(two.state_dict()[f"layers.1.0.{name}"], mean)


def test_a_shared_layer_can_be_applied_more_times(tmp_path: Path) -> None:
    albert(num_hidden_layers=3).save_pretrained(tmp_path)
    assert ElbertForSequenceClassification.from_pretrained(tmp_path, layers=12)(IDS, LIVE).shape == (5, 12, 4)


def test_the_first_layers_of_a_model_that_shares_none_can_be_kept(tmp_path: Path) -> None:
    config = replace(SMALL, groups=4, shared_head=False, head="cls_mean", depth_zero=True)
    whole = ElbertForSequenceClassification(config).eval()
    whole.save_pretrained(tmp_path)
    first = ElbertForSequenceClassification.from_pretrained(tmp_path, layers=2).eval()
    assert (first.config.layers, first.config.groups, first.new_weights) == (2, 2, ())
    with torch.inference_mode():
        assert torch.equal(first(IDS, LIVE), whole(IDS, LIVE)[:, :3])


def test_a_directory_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            ElbertForSequenceClassification.from_pretrained(tmp_path)

    refused("has no config.json")
    (tmp_path / "config.json").write_text("{")
    refused("cannot be read")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused("only safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04 pickle")
    refused("damaged or not a safetensors")
    albert(num_hidden_layers=2).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused("'gpt2', not 'albert' or 'bert'")


def test_an_inconsistent_configuration_is_refused() -> None:
    for fields in ({"heads": 5}, {"embedding": 128}, {"groups": 7}, {"labels": ("one",)}):
        with pytest.raises(ValueError, match=r"multiple|projection|groups|labels"):
            Config(**fields)
