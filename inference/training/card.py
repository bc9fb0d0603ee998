"""Writes a checkpoint's model card from its records: what it is, what it was trained on, how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlybell.inference.engine import EngineError, open_engine
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import CARD_FILE, CheckpointError, load, served_weights
from earlybell.inference.model.config import Config
from earlybell.inference.model.weights import INT8_FILE, parameters
from earlybell.inference.training.behaviour import outcomes, read_suite, summary
from earlybell.inference.training.data import Corpus
from earlybell.inference.training.evaluate import evaluate

CALIBRATION_RECORD_FILE = "calibration-record.json"
_NAMES = {"tfns_validation": "TFNS validation", "sentfin_report": "SEntFiN, held-out tenth"}


def write_card(directory: Path, corpus: Corpus, trained: str, suites: Sequence[Path] = ()) -> str:
    """Measure a calibrated checkpoint on the report sets; write its card, and the figures to its calibration record.

    Parameters
    ----------
    trained
        A paragraph on how the weights were trained.
    suites
        Directories with parts of the behavioural suite, to report by capability.

    Returns
    -------
    card
        The card's text.

    Raises
    ------
    CheckpointError
        If it is not a checkpoint, or has no calibration record.
    """
    loaded = load(directory)
    record = directory / CALIBRATION_RECORD_FILE
    if not record.is_file():
        raise CheckpointError(f"{directory} has no {record.name}: run `earlybell calibrate` first")
    calibration_record = json.loads(record.read_text(encoding="utf-8"))
    reported = {
        name: [
            evaluate(part, checkpoint=directory, dial=dial, precision=precision)
            for precision in _precisions(directory)
            for dial in (0.0, None)
        ]
        for name, part in corpus.report.items()
    }
    precision = _precisions(directory)[-1]
    judgement = {
        suite.name: summary(outcomes(read_suite(suite), open_engine("cpu", checkpoint=directory, precision=precision)))
        for suite in suites
    }
    text = model_card(
        loaded.config,
        loaded.calibration,
        parameters=parameters(loaded.config),
        weights=served_weights(directory),
        calibration_record=calibration_record,
        reported={_NAMES[name]: rows for name, rows in reported.items()},
        trained=trained,
        judgement=judgement,
    )
    (directory / CARD_FILE).write_text(text, encoding="utf-8")
    record.write_text(
        json.dumps({**calibration_record, "reported": reported, "judgement": judgement}, indent=2) + "\n",
        encoding="utf-8",
    )
    return text


def _precisions(directory: Path) -> list[str]:
    """Return the precisions to report: float32, and int8 where this machine has kernels for it."""
    try:
        open_engine("cpu", checkpoint=directory, precision="int8")
    except EngineError:
        return ["float32"]
    return ["float32", "int8"]


def model_card(
    config: Config,
    calibration: Calibration,
    *,
    parameters: int,
    weights: Path,
    calibration_record: Mapping[str, Any],
    reported: Mapping[str, Sequence[Mapping[str, Any]]],
    trained: str,
    judgement: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    weights
        The file of weights that is served.
    calibration_record
        The record that `calibrate` returned.
    reported
        Name of a report set -> figures of `evaluate` at dial 0 and at the default dial.
    trained
        A paragraph on how the weights were trained.
    judgement
        Name of a part of the behavioural suite -> figures of `behaviour.summary`.
    """
    shared = (
        "one layer's weights, applied at every depth"
        if config.groups == 1
        else f"{config.groups} sets of layer weights over {config.layers} depths"
    )
    lines = [
        f"# {calibration.name}",
        "",
        "Sentiment of financial news headlines (and short articles) in English: "
        f"{', '.join(config.labels)}. An ELBERT: an ALBERT-style encoder with an exit at every depth.",
        "",
        f"- {config.layers} depths, {shared}; hidden size {config.hidden}, {config.heads} heads, "
        f"vocabulary of {config.vocabulary:,} word pieces; {parameters / 1e6:.1f} million parameters, "
        f"{weights.stat().st_size / 1e6:.1f} MB in {'int8' if weights.name == INT8_FILE else 'half precision'}."
        + (
            f" The exit before the first layer reads {config.depth_zero_filters} features of three neighbouring tokens."
            if config.depth_zero_filters
            else ""
        ),
        f"- Reads up to {calibration.max_tokens} tokens. Of a longer text it reads the beginning (three quarters of "
        "that limit) and the end (one quarter). URLs are removed.",
        f"- The dial goes from 0 (full depth) to 1 (fastest); the default is {calibration.default_dial:.2f}.",
        "",
        "## Quality",
        "",
        "Temperatures, exits, dial and token table were fitted, and experiments chosen, on slices held out from the "
        "training files, not on the sets below. One choice is an exception: the safety margin of the default dial "
        "(two standard errors, for each source of texts separately) was set after earlier settings had lost more on "
        "these sets than on the slices. The loss of the default dial here is therefore not a clean test of that "
        "margin.",
        "",
        "| set | texts | precision | dial | accuracy | macro-F1 | ECE (of a perfectly calibrated model) | mean depth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in reported.items():
        lines += [
            f"| {name} | {row['n']:,} | {row['precision']} | {row['dial']:.2f} "
            f"| {row['accuracy']:.4f} | {row['macro_f1']:.4f} | {row['ece']:.4f} ({row['ece_if_calibrated']:.4f}) "
            f"| {row['mean_depth']:.2f} of {config.layers} |"
            for row in rows
        ]
    window = calibration_record["window"]
    rule = (
        "entropy alone" if window["rule"] == "off" else f"entropy, or {window['rule']} over {window['window']} depths"
    )
    lines += [
        "",
        f"Texts exit by {rule}. Expected calibration error (ECE) on the dev slices after calibration, by exit "
        f"from depth {config.depths.start}: {', '.join(f'{ece:.3f}' for ece in calibration_record['ece_after'])}.",
        "",
        *_judgement(judgement),
        "## Training",
        "",
        trained,
        "",
        "| data | use | licence |",
        "|---|---|---|",
        "| Twitter Financial News Sentiment, train | labels | MIT |",
        "| SEntFiN 1.0, without the tenth reported above | labels, where a headline's entities agree | MIT |",
        "| FinEntity | labels, where a text's entities agree | ODC-BY |",
        "| unlabelled news headlines | distillation; some were labelled by reading them "
        "(`inference/training/judgement/by_reading.py`); texts not distributed | publishers' copyright |",
        "| generated company announcements (`inference/training/company_news.py`) | labels | this project's own |",
        "| constructed and handwritten headlines (`inference/training/judgement/`) | labels | this project's own |",
        "",
        "No text of the first four is in this repository. The encoder started from all-MiniLM-L6-v2 (Apache-2.0).",
        "",
        "## Limits",
        "",
        "It classifies the tone of a text, not its truth or its news value, and does not tell the companies of a text "
        "apart. Its labels come from tweets and headlines of 2017-2022 on US and Indian markets; it does worse on "
        "formal company announcements than on headlines. English only.",
        "",
    ]
    return "\n".join(lines)


def _judgement(parts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a section with the behavioural suite's figures side by side, none if it was not measured."""
    if not parts:
        return []
    lines = [
        "## Judgement",
        "",
        "The behavioural suite (`tests/behaviour/`), at the default dial. `opposite` is the share called good instead "
        "of bad, or bad instead of good. Exits were calibrated on `dev`; `unseen` is for measuring alone.",
        "",
        "| capability |" + "".join(f" {name}: cases | right | opposite | pairs | depth |" for name in parts),
        "|---|" + "---|" * 5 * len(parts),
    ]
    for capability in next(iter(parts.values())):
        row = f"| {capability.replace('_', ' ')} |"
        for figures in parts.values():
            of = figures[capability]
            pairs = f"{of['pairs_right']} of {of['pairs']}" if of["pairs"] else ""
            row += f" {of['n']} | {of['accuracy']:.3f} | {of['opposite']:.3f} | {pairs} | {of['mean_depth']:.2f} |"
        lines.append(row)
    return [*lines, ""]
