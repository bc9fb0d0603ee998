"""CWB, the confidence-window exit: after each depth, decide for every text on its own whether it exits.

Source: ELBERT, arXiv 2107.00175 (two-stage exit); the multi-class forms of the window are ours. The released code
decides once for a whole batch, on its mean entropy; here each row is a text and no row sees another.
Its twin in C, for the int8 backend, is ``earlybell_decide`` in `kernels/forward.c`; a test compares the two.
It sees probabilities and depths; it knows nothing of encoders or batches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earlybell.inference.early_exit.exit_rule import ExitRule


def normalised_entropy(probabilities: Tensor) -> Tensor:
    """(B, C) -> (B,): sum p ln p / ln(1/C), in [0, 1]; 0 is certain, 1 is uniform."""
    entropy: Tensor = -torch.special.xlogy(probabilities, probabilities).sum(-1) / math.log(probabilities.shape[-1])
    return entropy


class ConfidenceWindow:
    """The state of each text's window.

    Rows are texts, or slots that hold one text after another (`reset`). The window counts depths 1..; at depth 0 a text
    exits by its confidence alone.
    """

    def __init__(self, rule: ExitRule, rows: int, device: torch.device | str = "cpu") -> None:
        self.rule = rule
        self.run = torch.zeros(rows, dtype=torch.int32, device=device)  # consecutive depths that satisfy the rule
        self.label = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self.lead = torch.zeros(rows, device=device)  # the class's probability at the depth before

    def decide(self, probabilities: Tensor, depth: int | Tensor) -> Tensor:
        """Update the windows with one more depth and return which texts exit.

        Parameters
        ----------
        probabilities
            (B, C), calibrated.
        depth
            Their depth, 0..: one for all, or (B,) one each.

        Returns
        -------
        exits
            (B,) bool. The last depth is the caller's concern: it always answers. A text whose probabilities are not
            numbers exits with them, at once: the caller reports it.
        """
        rule = self.rule
        undefined = probabilities.isnan().any(-1)
        exits = undefined | (normalised_entropy(probabilities) < rule.threshold)
        if rule.window_rule == "off":
            return exits
        top = probabilities.topk(2, dim=-1)
        lead, label = top.values[:, 0], top.indices[:, 0]
        same = label == self.label
        if rule.window_rule == "agreement":
            leads = (lead - top.values[:, 1]) > rule.margin
            run = torch.where(leads, torch.where(same, self.run + 1, 1), 0)
        else:
            run = torch.where(same & (lead >= self.lead), self.run + 1, 1)
        counts = torch.as_tensor(depth, device=probabilities.device) >= 1
        self.run = torch.where(counts, run, 0).to(torch.int32)
        self.label = torch.where(counts, label, -1)
        self.lead = torch.where(counts, lead, 0.0)
        return exits | (self.run >= rule.window)

    def decide_for(self, rows: Tensor, probabilities: Tensor, depth: Tensor) -> Tensor:
        """`decide` for these rows (indices) only, updating the state in place in memory."""
        part = ConfidenceWindow(self.rule, 0, probabilities.device)
        part.run, part.label, part.lead = self.run[rows], self.label[rows], self.lead[rows]
        exits = part.decide(probabilities, depth)
        self.run.index_copy_(0, rows, part.run)
        self.label.index_copy_(0, rows, part.label)
        self.lead.index_copy_(0, rows, part.lead)
        return exits

    def select(self, rows: Tensor) -> None:
        """Keep these rows only, in this order (indices, or a bool mask)."""
        self.run, self.label, self.lead = self.run[rows], self.label[rows], self.lead[rows]

    def reset(self, rows: Tensor) -> None:
        """Start new texts in these rows (indices), updating the state in place in memory."""
        self.run.index_fill_(0, rows, 0)
        self.label.index_fill_(0, rows, -1)
        self.lead.index_fill_(0, rows, 0.0)


def exit_depths(probabilities: Tensor, rule: ExitRule, first_depth: int) -> Tensor:
    """Return the depth at which each text would exit, from the probabilities of all its exits.

    Parameters
    ----------
    probabilities
        (B, exits, C), of depths ``first_depth``, ``first_depth + 1``, ... .

    Returns
    -------
    depths
        (B,) int64.
    """
    texts, exits, _ = probabilities.shape
    window = ConfidenceWindow(rule, texts, probabilities.device)
    depths = torch.full((texts,), first_depth + exits - 1, dtype=torch.int64, device=probabilities.device)
    staying = torch.ones(texts, dtype=torch.bool, device=probabilities.device)
    for index in range(exits - 1):
        exiting = window.decide(probabilities[:, index], first_depth + index) & staying
        depths[exiting] = first_depth + index
        staying &= ~exiting
    return depths
