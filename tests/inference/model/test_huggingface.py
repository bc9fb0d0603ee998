"""Checkpoints that transformers itself makes, read as ELBERT; and ELBERT's own, read back by both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AlbertModel,
    BertConfig,
    BertForSequenceClassification,
)

from earlybell.inference.model.elbert import Config, ElbertForSequenceClassification
from earlybell.inference.model.huggingface import CheckpointError

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 40, "id2label": {0: "bad", 1: "so-so", 2: "good", 3: "odd"},
         "label2id": {"bad": 0, "so-so": 1, "good": 2, "odd": 3}}  # fmt: skip
SMALL = Config(vocabulary=99, embedding=32, hidden=32, heads=4, feed_forward=64, layers=4, positions=40)
IDS = torch.randint(1, 99, (5, 14), generator=torch.Generator().manual_seed(0))
LIVE = torch.arange(14) < torch.tensor([14, 3, 9, 14, 1])[:, None]


def albert(**changes: Any) -> AlbertForSequenceClassification:
    torch.manual_seed(1)
    return AlbertForSequenceClassification(AlbertConfig(**{**SIZES, "embedding_size": 16, **changes})).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 6, "num_hidden_groups": 3},
        {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
        {"num_hidden_layers": 3, "hidden_act": "gelu", "embedding_size": 32},
    ],
)
def test_an_albert_of_transformers_gives_its_own_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = albert(**changes)
    theirs.save_pretrained(tmp_path)
    ours = ElbertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert ours.config.labels == ("bad", "so-so", "good", "odd")
    assert ours.new_weights == ()
    with torch.inference_mode():
        expected = theirs(IDS, attention_mask=LIVE.long()).logits
        assert torch.allclose(ours(IDS, LIVE)[:, -1], expected, atol=1e-5)


def test_a_bert_of_transformers_is_an_albert_with_a_group_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = BertForSequenceClassification(BertConfig(**SIZES, num_hidden_layers=3)).eval()
    theirs.save_pretrained(tmp_path)
    ours = ElbertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (ours.config.groups, ours.config.layers, ours.config.projection) == (3, 3, False)
    with torch.inference_mode():
        expected = theirs(IDS, attention_mask=LIVE.long()).logits
        assert torch.allclose(ours(IDS, LIVE)[:, -1], expected, atol=1e-5)


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
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, config: Config) -> None:
    torch.manual_seed(2)
    model = ElbertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "first")
    back = ElbertForSequenceClassification.from_pretrained(tmp_path / "first").eval()
    assert back.config == config
    assert back.new_weights == ()
    for name, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name
    back.save_pretrained(tmp_path / "second")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    with torch.inference_mode():
        assert torch.equal(model(IDS, LIVE), back(IDS, LIVE))


def test_an_albert_survives_the_round_trip_through_elbert(tmp_path: Path) -> None:
    """transformers -> ELBERT -> transformers: every one of its weights comes back bit for bit."""
    theirs = albert(num_hidden_layers=4, num_hidden_groups=2)
    theirs.save_pretrained(tmp_path / "theirs")
    ElbertForSequenceClassification.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    back = AlbertForSequenceClassification.from_pretrained(tmp_path / "ours")
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name
    assert back.config.id2label == theirs.config.id2label


def test_transformers_reads_the_encoder_of_a_model_without_a_projection(tmp_path: Path) -> None:
    config = replace(SMALL, layers=5)
    ours = ElbertForSequenceClassification(config).eval()
    ours.save_pretrained(tmp_path)
    theirs = AlbertModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        x = ours.embed(IDS)
        for depth in range(1, 6):
            x, _ = ours.deepen(x, LIVE, depth)
        expected = theirs(IDS, attention_mask=LIVE.long()).last_hidden_state
    assert torch.allclose(x[LIVE], expected[LIVE], atol=1e-5)


def test_fewer_groups_start_from_the_mean_of_their_layers(tmp_path: Path) -> None:
    theirs = albert(num_hidden_layers=4, num_hidden_groups=4)
    theirs.save_pretrained(tmp_path)
    four = ElbertForSequenceClassification.from_pretrained(tmp_path)
    two = ElbertForSequenceClassification.from_pretrained(tmp_path, groups=2)
    name = "feed_forward_in.weight"
    mean = (four.state_dict()[f"layers.2.0.{name}"] + four.state_dict()[f"layers.3.0.{name}"]) / 2
    assert torch.allclose(two.state_dict()[f"layers.1.0.{name}"], mean)


def test_a_shared_layer_may_be_applied_more_often(tmp_path: Path) -> None:
    albert(num_hidden_layers=3).save_pretrained(tmp_path)
    assert ElbertForSequenceClassification.from_pretrained(tmp_path, layers=12)(IDS, LIVE).shape == (5, 12, 4)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    def refused(says: str) -> None:
        with pytest.raises(CheckpointError, match=says):
            ElbertForSequenceClassification.from_pretrained(tmp_path)

    refused("has no config.json")
    (tmp_path / "config.json").write_text("{")
    refused("cannot be read")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused("only safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04 pickle")
    refused("damaged or no safetensors")
    albert(num_hidden_layers=2).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused("'gpt2', not 'albert' or 'bert'")


def test_a_configuration_that_makes_no_sense_is_refused() -> None:
    for wrong in ({"heads": 5}, {"embedding": 128}, {"groups": 7}, {"labels": ("one",)}):
        with pytest.raises(ValueError, match=r"multiple|projection|groups|labels"):
            Config(**wrong)
