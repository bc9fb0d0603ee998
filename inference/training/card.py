"""The model card of a checkpoint: what it is, what it was trained on, how good it is. Written from its records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlybell.inference.engine import EngineError, open_engine
from earlybell.inference.model.calibration import Calibration
from earlybell.inference.model.checkpoint import CARD_FILE, CheckpointError, load
from earlybell.inference.model.elbert import Config
from earlybell.inference.training.data import Corpus
from earlybell.inference.training.evaluate import evaluate

CALIBRATION_RECORD_FILE = "calibration-record.json"
_NAMES = {"tfns_validation": "TFNS validation", "sentfin_report": "SEntFiN, a tenth set aside"}


def write_card(directory: Path, corpus: Corpus, trained: str) -> str:
    """Measure a calibrated checkpoint on what is only reported; write the card, put the figures into its record.

    Returns
    -------
    card
        The text that was written.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or was calibrated without leaving a record.
    """
    loaded = load(directory)
    record = directory / CALIBRATION_RECORD_FILE
    if not record.is_file():
        raise CheckpointError(f"{directory} has no {record.name}: run `earlybell calibrate` first")
    calibrated = json.loads(record.read_text(encoding="utf-8"))
    reported = {
        name: [
            evaluate(part, checkpoint=directory, dial=dial, precision=precision)
            for precision in _precisions(directory)
            for dial in (0.0, None)
        ]
        for name, part in corpus.report.items()
    }
    text = model_card(
        loaded.model.config,
        loaded.calibration,
        parameters=sum(value.numel() for value in loaded.model.parameters()),
        megabytes=(directory / "model.safetensors").stat().st_size / 1e6,
        calibrated=calibrated,
        reported={_NAMES[name]: rows for name, rows in reported.items()},
        trained=trained,
    )
    (directory / CARD_FILE).write_text(text, encoding="utf-8")
    record.write_text(json.dumps({**calibrated, "reported": reported}, indent=2) + "\n", encoding="utf-8")
    return text


def _precisions(directory: Path) -> list[str]:
    """What calibration ran in, and int8 where this machine has kernels for it."""
    try:
        open_engine("cpu", checkpoint=directory, precision="int8")
    except EngineError:
        return ["bfloat16"]
    return ["bfloat16", "int8"]


def model_card(
    config: Config,
    calibration: Calibration,
    *,
    parameters: int,
    megabytes: float,
    calibrated: Mapping[str, Any],
    reported: Mapping[str, Sequence[Mapping[str, Any]]],
    trained: str,
) -> str:
    """Markdown.

    Parameters
    ----------
    calibrated
        What `calibrate` found.
    reported
        Name of a set -> `evaluate` at dial 0 and at the default dial.
    trained
        A paragraph on how the weights came about.
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
        f"{megabytes:.1f} MB in half precision."
        + (
            f" The exit before any layer hears {config.depth_zero_filters} features of three neighbouring tokens."
            if config.depth_zero_filters
            else ""
        ),
        f"- Reads up to {calibration.max_tokens} tokens; of a longer text, the first three quarters of that room from "
        "its beginning and the rest from its end. URLs are removed.",
        f"- The dial goes from 0 (full depth) to 1 (fastest); the default is {calibration.default_dial:.2f}.",
        "",
        "## Quality",
        "",
        "Temperatures, exits, dial and token table used slices set aside from the training files, and so did the "
        "choice among experiments. One thing did not: how cautious the dial's default is (two standard errors to "
        "spare, and for each source of texts by itself) was settled after settings had lost more on these sets than "
        "the slices promised, so what the default dial loses here is no clean test of that rule.",
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
    window = calibrated["window"]
    rule = (
        "entropy alone" if window["rule"] == "off" else f"entropy, or {window['rule']} over {window['window']} depths"
    )
    lines += [
        "",
        f"Exits leave by {rule}. Expected calibration error on the dev slices after temperature, by exit from depth "
        f"{config.depths.start}: {', '.join(f'{one:.3f}' for one in calibrated['ece_after'])}.",
        "",
        "## Training",
        "",
        trained,
        "",
        "| data | use | licence |",
        "|---|---|---|",
        "| Twitter Financial News Sentiment, train | labels | MIT |",
        "| SEntFiN 1.0, less a tenth that is only reported | labels, where a headline's entities agree | MIT |",
        "| FinEntity | labels, where a text's entities agree | ODC-BY |",
        "| unlabelled news headlines | distillation (no label, no text is kept) | publishers' copyright |",
        "| made-up company announcements (`inference/training/company_news.py`) | labels | this project's own |",
        "",
        "No text of the first four is in this repository. The encoder started from all-MiniLM-L6-v2 (Apache-2.0).",
        "",
        "## Limits",
        "",
        "It reads the mood of a text, not its truth or its news value, and has no notion of which company a text with "
        "several is about. Labels come from tweets and headlines of 2017-2022 on US and Indian markets; formal "
        "company announcements are read less well than headlines. English only.",
        "",
    ]
    return "\n".join(lines)
