"""Training losses: how the exits are weighted, and what they learn from each other or from a teacher.

Axes: B texts, S exits (in the order of the depths), C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from earlybell.inference.model.elbert import ElbertForSequenceClassification


class ExitWeights(nn.Module):
    """ELBERT's learned weights of the exits' losses (arXiv 2107.00175).

    w_l = sigmoid(t_l) for l < S and w_S = S - sum_{l<S} w_l, with t_l starting at 4. In the released code t is a
    plain tensor whose gradient is never zeroed; here it is a Parameter.
    """

    def __init__(self, exits: int) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.full((exits - 1,), 4.0))

    def forward(self) -> Tensor:
        """Return (S,) weights that sum to S."""
        early = torch.sigmoid(self.t)
        return torch.cat([early, (len(self.t) + 1 - early.sum()).reshape(1)])


def exits_cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return sum_l w_l CE_l, averaged over texts. ``logits`` (B, S, C), ``truth`` (B,), ``weights`` (S,)."""
    texts, exits, _ = logits.shape
    losses = F.cross_entropy(logits.float().flatten(0, 1), truth.repeat_interleave(exits), reduction="none")
    return (losses.view(texts, exits) * weights).sum(1).mean()


def distillation(
    logits: Tensor,
    soft: Tensor,
    truth: Tensor,
    weights: Tensor,
    temperature: float,
    hard_weight: float,
    opposite_weight: float = 0.0,
) -> Tensor:
    """Return the loss by which every exit learns from the teacher, and from the label where there is one.

    sum_l w_l [T^2 KL(soft || softmax(logits_l / T)) + hard_weight CE_l + opposite_weight O_l], averaged over texts.

    Parameters
    ----------
    logits
        (B, S, C), the student's.
    soft
        (B, C), the teacher's probabilities at temperature T.
    truth
        (B,) labels; -100 where a text has none.
    weights
        (S,).
    opposite_weight
        Of O_l, which `not_opposite` returns.
    """
    logits = logits.float()
    log_p = F.log_softmax(logits / temperature, -1)
    divergence = (torch.special.xlogy(soft, soft).sum(-1)[:, None] - (soft[:, None] * log_p).sum(-1)) * temperature**2
    _, exits, classes = logits.shape
    hard = F.cross_entropy(
        logits.reshape(-1, classes), truth.repeat_interleave(exits), reduction="none", ignore_index=-100
    ).view(-1, exits)
    losses = divergence + hard_weight * hard
    if opposite_weight:
        losses = losses + opposite_weight * not_opposite(logits, truth)
    total: Tensor = (losses * weights).sum(1).mean()
    return total


def not_opposite(logits: Tensor, truth: Tensor) -> Tensor:
    """Return -log(1 - P(opposite)): the cross-entropy of the coarser question whether a text has the other sign.

    An answer with the wrong sign costs whoever trades on it more than none, and the labels' own loss does not know
    which of the other classes is the opposite.

    Parameters
    ----------
    logits
        (B, S, C) in float32; the classes stand in order, so that the opposite of c is C - 1 - c.
    truth
        (B,) labels; -100 where a text has none. Those, and the class in the middle, cost nothing.

    Returns
    -------
    losses
        (B, S).
    """
    opposite = logits.shape[-1] - 1 - truth
    signed = (truth >= 0) & (truth != opposite)
    index = torch.where(signed, opposite, 0)[:, None, None].expand(-1, logits.shape[1], 1)
    others = torch.logsumexp(logits.scatter(-1, index, -torch.inf), -1)
    return (torch.logsumexp(logits, -1) - others) * signed[:, None]


def one_step(model: ElbertForSequenceClassification, ids: Tensor, mask: Tensor, truth: Tensor) -> Tensor:
    """Return GEEP's shared exit loss, teacher and exits in one step (Li et al. 2024, doi 10.1007/s11704-022-2341-9).

    For each exit k < L, h_k is the output of layers 1..k and z_k = Teacher(Layer_L(h_k)): every sub-network reuses the
    last layer and the last depth's head. With z the full network's logits, the loss is
    sum_k CE(z_k, y) + sum_{k<L} KL(softmax(z).detach() || Student_k(h_k)); h_k is not detached. k = L is the full
    network's own CE. With one shared layer, Layer_L(h_k) is h_{k+1}, which is computed once.

    Returns
    -------
    loss
        Scalar, averaged over texts.
    """
    last = model.config.layers
    x = model.embed(ids)
    students = [model.exit_logits(x, mask, 0)] if model.config.depth_zero else []
    teachers = []
    shared = model.config.groups == 1
    for depth in range(1, last + 1):
        x, _ = model.deepen(x, mask, depth)
        if shared:
            if depth > 1:
                teachers.append(model.exit_logits(x, mask, last))
        elif depth < last:
            through, _ = model.deepen(x, mask, last)
            teachers.append(model.exit_logits(through, mask, last))
        if depth < last:
            students.append(model.exit_logits(x, mask, depth))
    if not shared or last == 1:
        teachers.append(model.exit_logits(x, mask, last))  # the full network
    full = teachers[-1].float()
    hard = torch.stack([F.cross_entropy(z.float(), truth) for z in teachers]).sum()
    if shared and last > 1:
        hard = hard + F.cross_entropy(full, truth)  # k = L - 1 reads the same state as the full network; both count
    target = full.softmax(-1).detach()
    soft = (
        torch.stack([F.kl_div(F.log_softmax(z.float(), -1), target, reduction="batchmean") for z in students]).sum()
        if students
        else full.new_zeros(())
    )
    return hard + soft
