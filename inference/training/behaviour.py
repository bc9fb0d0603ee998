"""The behavioural suite: cases by capability, minimal pairs and invariances (Ribeiro et al. 2020, CheckList).

Measures judgement on wordings chosen to show it, where a corpus measures it on wordings as they come. The cases and the
guide by which they are labelled are in ``tests/behaviour``. Results are counts: a case's text is never part of them, so
that a half kept unseen stays so; `missed` is for the other half.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from earlybell.inference.engine import Engine
from earlybell.inference.training.data import LABELS, DataError, Example

KINDS = ("case", "pair", "invariance")
TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the suite."""

    capability: str  # the name of its file
    text: str
    label: str
    kind: str
    group: str  # cases of one pair or invariance share it; "" for a case by itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case and what the model said."""

    case: Case
    answer: str
    depth: int

    @property
    def right(self) -> bool:
        """Whether the label is the case's."""
        return self.answer == self.case.label

    @property
    def opposite(self) -> bool:
        """Whether good was called bad, or bad good."""
        return {self.answer, self.case.label} == {"positive", "negative"}


def read_suite(directory: Path) -> list[Case]:
    """Read every ``CAPABILITY.jsonl`` of a directory.

    Raises
    ------
    DataError
        If there is none, or a line or a group is malformed.
    """
    files = sorted(directory.glob("*.jsonl"))
    if not files:
        raise DataError(f"no behavioural suite at {directory}: it has no .jsonl file")
    cases = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{file}, line {number}"
            try:
                row = json.loads(line)
                case = Case(file.stem, row["text"], row["label"], row["kind"], row.get("group") or "")
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f"{where}: not a case of the behavioural suite ({type(error).__name__})") from error
            if case.label not in LABELS or case.kind not in KINDS or not case.text:
                raise DataError(f"{where}: give a text, a label of {', '.join(LABELS)}, a kind of {', '.join(KINDS)}")
            cases.append(case)
    for members in _groups(cases).values():
        kind, labels = members[0].kind, {case.label for case in members}
        if kind == "pair" and (len(members) != 2 or len(labels) != 2):
            raise DataError(f"{directory}: pair {members[0].group!r} is not two cases with different labels")
        if kind == "invariance" and (len(members) < 3 or len(labels) != 1):
            raise DataError(f"{directory}: invariance {members[0].group!r} is not three or more cases with one label")
    return cases


def as_examples(cases: Sequence[Case]) -> list[Example]:
    """Return the cases as labelled texts, of source ``behaviour``."""
    return [Example(case.text, case.label, "behaviour") for case in cases]


def outcomes(cases: Sequence[Case], engine: Engine) -> list[Outcome]:
    """Score all cases with an engine, as it is served."""
    predictions = engine.score([case.text for case in cases])
    names = engine.description.labels
    answers = [names[index] for index in predictions.probabilities.argmax(1)]
    return [Outcome(*row) for row in zip(cases, answers, predictions.exit_depth.tolist(), strict=True)]


def summary(results: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the figures of every capability and, last, of all together.

    Returns
    -------
    figures
        By capability: ``n``, ``accuracy``, ``opposite`` (share called good instead of bad, or bad instead of good),
        ``pairs`` and ``pairs_right`` (both of a pair), ``invariances`` and ``invariances_consistent`` (one answer to
        all of a group, right or wrong), ``mean_depth``. Without texts.
    """
    parts: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in results:
        parts[outcome.case.capability].append(outcome)
    return {name: _figures(part) for name, part in [*sorted(parts.items()), (TOTAL, list(results))]}


def missed(results: Iterable[Outcome]) -> list[str]:
    """Return the cases that were answered wrong, as lines to read. Not for a half that must stay unseen."""
    return [
        f"{outcome.case.capability}: {outcome.case.label} -> {outcome.answer} at depth {outcome.depth}: "
        f"{outcome.case.text}"
        for outcome in results
        if not outcome.right
    ]


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Return `summary`'s figures as a table for people."""
    width = max(len(name) for name in figures)
    lines = [f"{'capability':{width}}  cases  right  opposite  pairs    invariances  depth"]
    for name, row in figures.items():
        pairs = f"{row['pairs_right']}/{row['pairs']}" if row["pairs"] else ""
        same = f"{row['invariances_consistent']}/{row['invariances']}" if row["invariances"] else ""
        lines.append(
            f"{name:{width}}  {row['n']:5d}  {row['accuracy']:5.3f}  {row['opposite']:8.3f}  {pairs:7}  {same:11}  "
            f"{row['mean_depth']:5.2f}"
        )
    return "\n".join(lines)


def _figures(part: Sequence[Outcome]) -> dict[str, Any]:
    by_group: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in part:
        if outcome.case.group:
            by_group[outcome.case.capability, outcome.case.group].append(outcome)
    pairs = [group for group in by_group.values() if group[0].case.kind == "pair"]
    same = [group for group in by_group.values() if group[0].case.kind == "invariance"]
    return {
        "n": len(part),
        "accuracy": round(float(np.mean([outcome.right for outcome in part])), 4),
        "opposite": round(float(np.mean([outcome.opposite for outcome in part])), 4),
        "pairs": len(pairs),
        "pairs_right": sum(all(outcome.right for outcome in group) for group in pairs),
        "invariances": len(same),
        "invariances_consistent": sum(len({outcome.answer for outcome in group}) == 1 for group in same),
        "mean_depth": round(float(np.mean([outcome.depth for outcome in part])), 4),
    }


def _groups(cases: Sequence[Case]) -> dict[tuple[str, str], list[Case]]:
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        if case.kind != "case":
            groups[case.capability, case.group].append(case)
    return groups
