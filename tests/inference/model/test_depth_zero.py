"""The exit before the first layer: trigram features, independent of padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from earlybell.inference.model.elbert import ElbertForSequenceClassification, Filters
from tests.inference.tiny_models import tiny

FILTERED = tiny(depth_zero_filters=16)


def test_the_filters_are_a_convolution_over_three_tokens() -> None:
    torch.manual_seed(0)
    filters = Filters(FILTERED)
    torch.nn.init.normal_(filters.bias)
    x = torch.randn(3, 9, FILTERED.hidden)
    live = torch.ones(3, 9, dtype=torch.bool)
    # (F, h, 3): the tap that reads the token before comes first.
    kernel = filters.taps.weight.view(3, 16, -1).permute(1, 2, 0)
    expected = F.relu(F.conv1d(x.transpose(1, 2), kernel, filters.bias, padding=1))  # (B, F, T)
    torch.testing.assert_close(filters(x, live), torch.cat([expected.amax(2), expected.mean(2)], dim=1))


@pytest.mark.parametrize("width", [5, 8, 20])
def test_padding_does_not_change_the_logits(width: int) -> None:
    torch.manual_seed(1)
    model = ElbertForSequenceClassification(FILTERED).eval()
    ids = torch.randint(4, 64, (1, 5))
    alone = model(ids, torch.ones(1, 5, dtype=torch.bool))
    padded = F.pad(ids, (0, width - 5))
    torch.testing.assert_close(model(padded, torch.arange(width)[None] < 5), alone)


def test_the_order_of_words_matters() -> None:
    torch.manual_seed(2)
    model = ElbertForSequenceClassification(FILTERED).eval()
    live = torch.ones(1, 6, dtype=torch.bool)
    model.embedding.position.weight.data.zero_()  # else the positions alone would tell them apart
    first, second = (model(torch.tensor([ids]), live)[:, 0] for ids in ([2, 7, 8, 9, 10, 3], [2, 8, 7, 10, 9, 3]))
    assert not torch.allclose(first, second)


def test_filters_can_be_added_to_a_model_without_them(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = ElbertForSequenceClassification(tiny())
    model.save_pretrained(tmp_path / "without")
    extended = ElbertForSequenceClassification.from_pretrained(tmp_path / "without", depth_zero_filters=16)
    assert set(extended.new_weights) == {
        "exit_zero.filters.bias", "exit_zero.filters.taps.weight", "exit_zero.pooler.weight",
    }  # fmt: skip
    extended.save_pretrained(tmp_path / "with")
    restored = ElbertForSequenceClassification.from_pretrained(tmp_path / "with")
    assert restored.new_weights == ()
    assert all(torch.equal(value, extended.state_dict()[name]) for name, value in restored.state_dict().items())
