from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from earlybell.inference.model.config import Config
from earlybell.inference.model.elbert import ElbertForSequenceClassification
from earlybell.inference.training.losses import ExitWeights, distillation, exits_cross_entropy, not_opposite, one_step

LOGITS = torch.randn((5, 4, 3), generator=torch.Generator().manual_seed(0))
TRUTH = torch.tensor([0, 2, 1, 1, 0])
SMALL = Config(vocabulary=50, embedding=16, hidden=16, heads=2, feed_forward=32, layers=3, head_hidden=8, positions=20)


def test_exit_weights_start_near_one_and_sum_to_the_number_of_exits() -> None:
    weights = ExitWeights(6)
    assert weights().sum().item() == pytest.approx(6.0)
    assert weights()[:5].tolist() == pytest.approx([0.982] * 5, abs=1e-3)
    with torch.no_grad():
        weights.t[2] = -3.0
    assert weights().sum().item() == pytest.approx(6.0)
    assert weights()[5] > 1.9


def test_the_gradient_of_the_exit_weights_does_not_accumulate() -> None:
    """In the released code t is not a parameter and its gradient adds up over the steps."""
    weights = ExitWeights(4)
    optimiser = torch.optim.SGD(weights.parameters(), lr=0.1)
    gradients = []
    for _ in range(2):
        optimiser.zero_grad()
        exits_cross_entropy(LOGITS, TRUTH, weights()).backward()  # type: ignore[no-untyped-call]
        assert weights.t.grad is not None
        gradients.append(weights.t.grad.clone())
    assert torch.allclose(gradients[0], gradients[1])


def test_the_loss_is_the_weighted_sum_over_exits() -> None:
    losses = torch.stack([F.cross_entropy(LOGITS[:, exit_], TRUTH) for exit_ in range(4)])
    weights = torch.tensor([0.5, 1.0, 0.0, 2.5])
    assert exits_cross_entropy(LOGITS, TRUTH, weights).item() == pytest.approx(
        float((losses * weights).sum()), rel=1e-5
    )


def test_distillation_loss_is_zero_when_student_and_teacher_agree() -> None:
    soft = (LOGITS[:, 0] / 2).softmax(-1)
    same = LOGITS[:, :1].expand(-1, 4, -1)
    unlabelled = torch.full((5,), -100)
    assert distillation(same, soft, unlabelled, torch.ones(4), 2.0, 0.5).item() == pytest.approx(0.0, abs=1e-5)
    assert distillation(LOGITS, soft, unlabelled, torch.ones(4), 2.0, 0.5).item() > 0.1


def test_an_opposite_answer_costs_what_is_missing_from_certainty() -> None:
    truth = torch.tensor([0, 2, 1, -100, 2])
    costs = not_opposite(LOGITS, truth)
    p = LOGITS.softmax(-1)
    assert torch.allclose(costs[0], -torch.log1p(-p[0, :, 2]), atol=1e-5)
    assert torch.allclose(costs[1], -torch.log1p(-p[1, :, 0]), atol=1e-5)
    assert not costs[2:4].any(), "neutral, and a text without a label"
    certain = torch.tensor([[[60.0, 0.0, -60.0]]])
    assert not_opposite(certain, torch.tensor([0])).item() == 0
    assert not_opposite(certain, torch.tensor([2])).item() == pytest.approx(60, abs=1e-3)
    logits = certain.clone().requires_grad_()
    not_opposite(logits, torch.tensor([2])).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 0, 0] > 0.9


def test_the_opposite_answer_counts_by_its_weight() -> None:
    soft, truth, weights = (LOGITS[:, 0] / 2).softmax(-1), torch.tensor([-100, 2, 1, 0, 2]), torch.ones(4)
    plain, more = (distillation(LOGITS, soft, truth, weights, 2.0, 0.5, weight).item() for weight in (0.0, 3.0))
    assert more - plain == pytest.approx(3 * not_opposite(LOGITS, truth).sum(1).mean().item(), rel=1e-4)


def test_distillation_adds_the_loss_of_labelled_texts() -> None:
    soft = (LOGITS[:, 0] / 2).softmax(-1)
    weights = torch.ones(4)
    labels = torch.tensor([-100, 2, -100, 1, -100])
    added = distillation(LOGITS, soft, labels, weights, 2.0, 0.5) - distillation(
        LOGITS, soft, labels, weights, 2.0, 0.0
    )
    expected = sum(float(F.cross_entropy(LOGITS[[1, 3], exit_], labels[[1, 3]], reduction="sum")) for exit_ in range(4))
    assert added.item() == pytest.approx(0.5 * expected / 5, rel=1e-4)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("depth_zero", [True, False])
def test_one_step_equals_geeps_formula(groups: int, depth_zero: bool) -> None:
    torch.manual_seed(1)
    model = ElbertForSequenceClassification(replace(SMALL, groups=groups, depth_zero=depth_zero)).train()
    ids = torch.randint(1, 50, (4, 7))
    mask = torch.ones(4, 7, dtype=torch.bool)
    truth = torch.tensor([0, 1, 2, 1])

    def prefix(depth: int) -> torch.Tensor:
        x = model.embed(ids)
        for current in range(1, depth + 1):
            x, _ = model.deepen(x, mask, current)
        return x

    def teacher(x: torch.Tensor) -> torch.Tensor:
        return model.exit_logits(x, mask, 3)

    full = teacher(prefix(3))
    expected = F.cross_entropy(full, truth)
    for depth in (1, 2):
        expected = expected + F.cross_entropy(teacher(model.deepen(prefix(depth), mask, 3)[0]), truth)
    for depth in range(0 if depth_zero else 1, 3):
        student = model.exit_logits(prefix(depth), mask, depth).log_softmax(-1)
        expected = expected + F.kl_div(student, full.softmax(-1).detach(), reduction="batchmean")
    assert one_step(model, ids, mask, truth).item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_step_trains_every_parameter() -> None:
    torch.manual_seed(1)
    model = ElbertForSequenceClassification(SMALL).train()
    ids, mask = torch.randint(1, 50, (4, 7)), torch.ones(4, 7, dtype=torch.bool)
    one_step(model, ids, mask, torch.tensor([0, 1, 2, 1])).backward()  # type: ignore[no-untyped-call]
    without_gradient = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without_gradient in (["embedding.token_type.weight"], [])
