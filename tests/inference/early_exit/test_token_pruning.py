from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earlybell.inference.early_exit.token_pruning import Pruning, solve_alpha, speed_up
from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import (
    ElbertForSequenceClassification,
    Layer,
    context_contribution,
    strongest_tokens,
)


@pytest.mark.parametrize(("alpha", "expected"), [(0.9, 1.79), (0.8, 2.98), (0.72, 4.19), (0.7, 4.52)])
def test_the_analytical_speed_up_of_bert_base_at_128_tokens(alpha: float, expected: float) -> None:
    assert speed_up(128, alpha, layers=12, hidden=768) == pytest.approx(expected, abs=0.005)


def test_no_pruning_is_no_speed_up() -> None:
    assert speed_up(40, 1.0, 6, 384) == 1.0


@given(wanted=st.floats(1.0, 4.5), tokens=st.integers(48, 512), layers=st.sampled_from([6, 12]))
def test_solve_alpha_inverts_speed_up(wanted: float, tokens: int, layers: int) -> None:
    alpha = solve_alpha(wanted, tokens, layers, 384)
    assert speed_up(tokens, alpha, layers, 384) >= wanted
    # K is a staircase in alpha, and alpha is at the edge of a step: any larger share would miss the target.
    if alpha < 0.999:
        assert speed_up(tokens, min(1.0, alpha * (1 + 1e-6)), layers, 384) <= wanted + 1e-9


@pytest.mark.parametrize("wanted", [0.5, 50.0])
def test_an_impossible_speed_up_is_refused(wanted: float) -> None:
    with pytest.raises(ValueError, match=r"speed-up"):
        solve_alpha(wanted, 64, 6, 384)


@given(
    tokens=st.lists(st.integers(2, 512), min_size=1, max_size=8), alpha=st.floats(0.3, 1.0), start=st.integers(0, 512)
)
def test_the_tokens_kept_depend_on_the_texts_own_length(tokens: list[int], alpha: float, start: int) -> None:
    pruning = Pruning(alpha, from_tokens=start)
    keep = pruning.kept(np.array(tokens), 6)
    alone = [pruning.kept(np.array([length]), 6)[0].tolist() for length in tokens]
    assert keep.tolist() == alone
    assert bool((keep[:, 1:] <= keep[:, :-1]).all())
    assert bool((keep >= 2).all())
    assert bool((keep <= np.array(tokens)[:, None]).all())


def test_only_texts_from_a_length_on_are_pruned() -> None:
    kept = Pruning(0.9, from_tokens=128).by_depth(np.array([20, 127, 128]), 3)
    assert kept.tolist() == [[20] * 4, [127] * 4, [128, 116, 104, 94]]


@given(width=st.integers(2, 300), alpha=st.floats(0.3, 1.0), start=st.integers(0, 300))
def test_no_text_is_wider_than_its_width_allows(width: int, alpha: float, start: int) -> None:
    pruning = Pruning(alpha, from_tokens=start)
    each = [pruning.by_depth(np.array([length]), 4)[0] for length in range(1, width + 1)]
    assert pruning.widths(width, 4).tolist() == np.max(each, axis=0).tolist()


@pytest.mark.parametrize(("alpha", "start"), [(0.0, 0), (1.1, 0), (0.5, -1)])
def test_pruning_that_makes_no_sense_is_refused(alpha: float, start: int) -> None:
    with pytest.raises(ValueError, match=r"alpha|length"):
        Pruning(alpha, from_tokens=start)


def attention_of(seed: int, lengths: list[int], heads: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    live = torch.arange(longest) < torch.tensor(lengths)[:, None]
    scores = torch.randn((len(lengths), heads, longest, longest), generator=generator) * 2
    return scores.masked_fill(~live[:, None, None, :], -torch.inf).softmax(-1), live


text_lengths = st.lists(st.integers(2, 20), min_size=1, max_size=6)


@given(seed=st.integers(0, 1000), lengths=text_lengths)
def test_contributions_sum_to_one_over_live_tokens(seed: int, lengths: list[int]) -> None:
    attention, live = attention_of(seed, lengths)
    contribution = context_contribution(attention, live)
    assert torch.allclose(contribution.sum(1), torch.ones(len(lengths)), atol=1e-5)
    assert bool((contribution[~live] == 0).all())


@given(seed=st.integers(0, 1000), lengths=text_lengths, share=st.floats(0.1, 1.0))
def test_cls_and_the_strongest_tokens_are_kept_in_order(seed: int, lengths: list[int], share: float) -> None:
    attention, live = attention_of(seed, lengths)
    contribution = context_contribution(attention, live)
    keep = (torch.tensor(lengths) * share).long().clamp_min(1)
    rows = strongest_tokens(contribution, live, keep)
    for text, count in enumerate(keep.tolist()):
        kept = rows[text, :count].tolist()
        assert kept[0] == 0
        assert kept == sorted(set(kept))
        assert all(position < lengths[text] for position in kept)
        dropped = sorted(set(range(lengths[text])) - set(kept))
        if dropped and len(kept) > 1:
            assert contribution[text, kept[1:]].min() >= contribution[text, dropped].max()


def test_ties_go_to_the_earlier_token() -> None:
    uniform = torch.full((1, 6), 1 / 6)
    live = torch.ones(1, 6, dtype=torch.bool)
    assert strongest_tokens(uniform, live, torch.tensor([3])).tolist() == [[0, 1, 2]]


def test_keeping_all_tokens_equals_the_layer_without_pruning() -> None:
    torch.manual_seed(0)
    layer = Layer(Config(hidden=32, embedding=32, heads=4, feed_forward=64)).eval()
    x, live = torch.randn(3, 9, 32), torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    unpruned, _ = layer(x, live)
    pruned, live_after = layer(x, live, live.sum(1))
    assert torch.equal(live_after, live)
    assert torch.allclose(unpruned[live], pruned[live], atol=1e-5)


def test_a_pruned_text_has_the_same_answer_alone_and_beside_a_longer_one(
    tiny_model: ElbertForSequenceClassification,
) -> None:
    ids = torch.randint(5, 60, (2, 30), generator=torch.Generator().manual_seed(3))
    live = torch.arange(30) < torch.tensor([30, 11])[:, None]
    keep = torch.from_numpy(Pruning(0.7).kept(live.sum(1).numpy(), tiny_model.config.layers))
    with torch.inference_mode():
        beside = tiny_model(ids, live, keep)[1]
        alone = tiny_model(ids[1:, :11], live[1:, :11], keep[1:])[0]
    assert torch.allclose(beside, alone, atol=1e-5)
