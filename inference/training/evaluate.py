"""`earlybell evaluate`: a checkpoint on labelled texts, as it is served; all dial settings; accuracy against cost."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.checkpoint import SHIPPED
from inference.checkpoint import load as load_checkpoint
from inference.engine import open_engine
from inference.training.data import DataError, Example
from inference.training.measures import accuracy, confusion, expected_calibration_error, macro_f1


def read_labelled(
    path: Path,
    labels: Sequence[str],
    *,
    text_column: str = "text",
    label_column: str = "label",
    label_map: Mapping[str, str] | None = None,
) -> list[Example]:
    """Labelled texts from a CSV, TSV or JSONL file.

    Parameters
    ----------
    labels
        The checkpoint's, which a row's label must be one of, whatever its case; a number is an index into them.
    label_map
        Names in the file -> names of the checkpoint.

    Raises
    ------
    DataError
        If the file or a column is missing, or a label is unknown. Rows without a label (null) are left out.
    """
    if not path.is_file():
        raise DataError(f"no file at {path}")
    known = {label.lower(): label for label in labels} | {str(index): label for index, label in enumerate(labels)}
    known |= {name.lower(): known[label.lower()] for name, label in (label_map or {}).items() if label.lower() in known}
    examples = []
    for number, row in _rows(path):
        for column in (text_column, label_column):
            if column not in row:
                raise DataError(f"{path}, row {number}: no column {column!r}; it has {', '.join(map(str, row))}")
        if row[label_column] is None:
            continue
        label = known.get(str(row[label_column]).strip().lower())
        if label is None:
            raise DataError(f"{path}, row {number}: label {row[label_column]!r} is none of {', '.join(labels)}")
        examples.append(Example(str(row[text_column]), label, path.name))
    if not examples:
        raise DataError(f"{path} has no labelled text")
    return examples


def evaluate(
    examples: Sequence[Example],
    *,
    checkpoint: Path | None = None,
    dial: float | None = None,
    device: str = "cpu",
    precision: str = "auto",
    threads: int = 0,
    strategy: str = "presort",
    window_texts: int = 512,
) -> dict[str, Any]:
    """Score the texts through the engine, in windows, and measure the answers.

    Returns
    -------
    figures
        ``accuracy``, ``macro_f1``, ``ece``, ``mean_depth``, ``depths`` (texts that left at each), ``tokens_kept``
        (share alive in the last layer run), ``n``, ``texts_per_second``, ``confusion`` (truth by answer, in the order
        of ``labels``), ``model_revision``, ``dial``, ``precision``.
    """
    engine = open_engine(
        device, checkpoint=checkpoint, dial=dial, precision=precision, threads=threads, strategy=strategy
    )
    described = engine.description
    engine.warm_up()
    began = time.perf_counter()
    parts = [
        engine.score([one.text for one in examples[start : start + window_texts]])
        for start in range(0, len(examples), window_texts)
    ]
    seconds = time.perf_counter() - began
    probabilities = np.concatenate([part.probabilities for part in parts])
    depths = np.concatenate([part.exit_depth for part in parts])
    tokens = np.concatenate([part.tokens for part in parts])
    kept = np.concatenate([part.tokens_kept for part in parts])
    truth = np.array([described.labels.index(one.label) for one in examples], np.int64)
    answers = probabilities.argmax(1)
    classes = len(described.labels)
    return {
        "accuracy": round(accuracy(truth, answers), 5),
        "macro_f1": round(macro_f1(truth, answers, classes), 5),
        "ece": round(expected_calibration_error(probabilities.astype(np.float64), truth), 5),
        "mean_depth": round(float(depths.mean()), 4),
        "depths": {str(depth): int((depths == depth).sum()) for depth in sorted(set(depths.tolist()))},
        "tokens_kept": round(float(np.mean(kept / tokens)), 4),
        "n": len(examples),
        "texts_per_second": round(len(examples) / seconds, 1),
        "confusion": confusion(truth, answers, classes).tolist(),
        "labels": list(described.labels),
        "model_revision": described.model_revision,
        "dial": described.dial,
        "depth_limit": described.depth_limit,
        "precision": described.precision,
    }


def evaluate_curve(examples: Sequence[Example], *, checkpoint: Path | None = None, **how: Any) -> list[dict[str, Any]]:
    """`evaluate` at every setting of the dial that the checkpoint has; settings with equal rules are run once."""
    curve = load_checkpoint(checkpoint or SHIPPED).calibration.curve
    found: list[dict[str, Any]] = []
    rules: list[Any] = []
    for point in curve:
        rule = (point.rule, point.alpha)
        if rule in rules:
            found.append({**found[rules.index(rule)], "dial": point.dial})
        else:
            found.append(evaluate(examples, checkpoint=checkpoint, dial=point.dial, **how))
        rules.append(rule)
    return found


def plot(curve: Sequence[Mapping[str, Any]], file: Path, title: str) -> None:
    """Draw accuracy against cost (mean depth as a share of full depth) into a PNG, SVG or PDF."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    cost = [one["mean_depth"] / one["depth_limit"] for one in curve]
    axes.plot(cost, [100 * one["accuracy"] for one in curve], marker="o")
    for one, where in zip(curve, cost, strict=True):
        if round(one["dial"] * 100) % 25 == 0:
            axes.annotate(f"dial {one['dial']:.2f}", (where, 100 * one["accuracy"]), textcoords="offset points",
                          xytext=(4, -10), fontsize=8)  # fmt: skip
    axes.set(xlabel="mean exit depth / full depth", ylabel="accuracy, %", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(file)
    pyplot.close(figure)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".csv", ".tsv"):
                delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
                yield from enumerate(csv.DictReader(file, delimiter=delimiter), 2)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DataError(f"{path}, line {number}: not a JSON object")
                    yield number, row
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path} is neither CSV nor JSONL in UTF-8: {error}") from error
