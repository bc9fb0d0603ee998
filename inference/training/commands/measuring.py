"""The commands that measure a checkpoint: evaluate it, compare its methods with their baselines, write its card.

Modules that load torch are imported inside the commands, so that `--help` stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earlybell.inference.training.commands.options import (
    Data,
    Device,
    LabelColumn,
    LabelMap,
    Precision,
    TextColumn,
    labelled_file,
)

if TYPE_CHECKING:
    from earlybell.inference.training.data import Example

LABELLED_TEXTS = typer.Argument(
    help="A file of labelled texts (CSV, TSV or JSONL; also .xz, .gz, .bz2), or corpus:NAME for a held-out part of the "
    "project's own: tfns_validation, sentfin_report, finentity_unseen, written or by_reading."
)
LabelledTexts = Annotated[Path, LABELLED_TEXTS]
MeasuredTexts = Annotated[int, typer.Option(help="Measure on this many texts, sampled by a fixed seed; 0: all.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Checkpoint directory. Default: the shipped one.")]
Dial = Annotated[float | None, typer.Option(help="0: full depth .. 1: fastest. Default: the checkpoint's.")]


def evaluate(
    data: Annotated[Path | None, LABELLED_TEXTS] = None,
    behaviour: Annotated[
        Path | None,
        typer.Option(help="Measure the behavioural suite in this directory instead (tests/behaviour/dev)."),
    ] = None,
    missed: Annotated[
        bool, typer.Option("--missed", help="Print the suite's wrong answers too. Never for its unseen half.")
    ] = False,
    checkpoint: Checkpoint = None,
    dial: Dial = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    texts: MeasuredTexts = 0,
    curve: Annotated[bool, typer.Option("--curve", help="Measure every setting of the dial.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Plot accuracy against cost to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    strategy: Annotated[str, typer.Option(help="padded, shrink or presort.")] = "presort",
    device: Device = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one per core.")] = 0,
) -> None:
    """Measure a checkpoint on labelled texts or the behavioural suite, through the engine, as it is served."""
    from earlybell.inference.model.checkpoint import SHIPPED, load
    from earlybell.inference.training import evaluate as evaluation
    from earlybell.inference.training.plots import plot_dial

    if behaviour is not None:
        if data is not None:
            raise typer.BadParameter("give labelled texts or --behaviour, not both", param_hint="--behaviour")
        _evaluate_behaviour(
            behaviour, missed, as_json, checkpoint=checkpoint, dial=dial, device=device, precision=precision,
            threads=threads, strategy=strategy,
        )  # fmt: skip
        return
    if data is None:
        raise typer.BadParameter("give a file of labelled texts, corpus:NAME, or --behaviour DIRECTORY")
    labels = load(checkpoint or SHIPPED).config.labels
    examples, _ = _examples(data, labels, text_column, label_column, label_map, texts)
    options: dict[str, Any] = {
        "checkpoint": checkpoint, "device": device, "precision": precision, "threads": threads,
        "strategy": strategy,
    }  # fmt: skip
    figures: dict[str, Any] = evaluation.evaluate(examples, dial=dial, **options)
    if curve or plot:
        figures["curve"] = evaluation.evaluate_curve(examples, **options)
    if plot:
        plot_dial(figures["curve"], plot, f"{data.name}, {figures['model_revision']}")
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        if name != "curve":
            typer.echo(f"{name}: {value}")
    for point in figures.get("curve", []):
        typer.echo(
            f"dial {point['dial']:.2f}: accuracy {point['accuracy']:.4f}, macro-F1 {point['macro_f1']:.4f}, "
            f"mean depth {point['mean_depth']:.2f}, {point['texts_per_second']:.0f} texts/s"
        )


def compare(
    data: LabelledTexts,
    checkpoint: Checkpoint = None,
    dial: Dial = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    texts: MeasuredTexts = 0,
    speed_up: Annotated[
        list[float] | None, typer.Option(help="A speed-up to prune for. Repeatable. Default: 1.5, 2, 3, 4, 4.8.")
    ] = None,
    prune_texts: Annotated[
        int, typer.Option(help="Measure pruning, which is slow, on the first N texts; 0: all, -1: skip it.")
    ] = 0,
    layer_texts: Annotated[
        int, typer.Option(help="Measure pruning one layer at a time on the first N of these; 0: all.")
    ] = 0,
    plot: Annotated[Path | None, typer.Option(help="Plot the exit curves and the pruning sweep to this file.")] = None,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Compare exits, depth prediction and pruning with their baselines. Prints one JSON object.

    For a part of the project's own texts, all of CWB's windows are compared, each chosen on the dev slices.
    Pruning is timed by this process's CPU time: use one thread (OMP_NUM_THREADS=1) for figures that can be compared.
    """
    from earlybell.inference.model.checkpoint import SHIPPED, load
    from earlybell.inference.training.comparisons import compare as run
    from earlybell.inference.training.data import data_directory, read_corpus
    from earlybell.inference.training.optimise import training_precision
    from earlybell.inference.training.plots import plot_comparison
    from earlybell.inference.training.pruning import SPEED_UPS

    loaded = load(checkpoint or SHIPPED)
    examples, unlabelled = _examples(data, loaded.config.labels, text_column, label_column, label_map, texts)
    dev = read_corpus(data_directory()).dev if str(data).startswith("corpus:") else ()
    figures = run(
        loaded, examples, dev=dev, unlabelled=unlabelled, dial=dial, speed_ups=speed_up or SPEED_UPS,
        prune_texts=prune_texts, layer_texts=layer_texts, device=device,
        precision=training_precision(device, precision),
    )  # fmt: skip
    if plot:
        plot_comparison(figures, plot, f"{data.name}, {loaded.calibration.name} {loaded.revision}")
    typer.echo(json.dumps(figures, indent=2))


def card(
    checkpoint: Annotated[Path, typer.Argument(help="A calibrated checkpoint; its README.md is written.")],
    trained: Annotated[str, typer.Option(help="A paragraph on how the weights were trained.")],
    data: Data = None,
    behaviour: Annotated[
        list[Path] | None, typer.Option(help="Directory with a part of the behavioural suite, to report; repeatable.")
    ] = None,
) -> None:
    """Measure a checkpoint on the report sets and write its model card."""
    from earlybell.inference.training.card import write_card
    from earlybell.inference.training.data import data_directory, read_corpus

    typer.echo(write_card(checkpoint, read_corpus(data_directory(data)), trained, behaviour or ()))


def _evaluate_behaviour(directory: Path, show_missed: bool, as_json: bool, **options: Any) -> None:
    from earlybell.inference.engine import open_engine
    from earlybell.inference.training import behaviour

    cases = behaviour.read_suite(directory)
    results = behaviour.outcomes(cases, open_engine(**options))
    figures = behaviour.summary(results)
    if as_json:
        typer.echo(json.dumps(figures | ({"missed": behaviour.missed(results)} if show_missed else {})))
        return
    typer.echo(behaviour.table(figures))
    if show_missed:
        typer.echo("\n".join(behaviour.missed(results)))


def _examples(
    data: Path,
    labels: Sequence[str],
    text_column: str,
    label_column: str,
    label_map: list[str] | None,
    count: int,
) -> tuple[list[Example], list[str]]:
    """Return the labelled texts that a command measures on, and texts that have no single label."""
    from earlybell.inference.training.data import UNLABELLED, data_directory, held_out_part
    from earlybell.inference.training.judgement.by_reading import labelled_by_reading
    from earlybell.inference.training.judgement.written import never_drawn
    from earlybell.inference.training.labelled import sample

    if str(data) == "corpus:written":
        return sample(never_drawn(), count), []
    if str(data) == "corpus:by_reading":
        headlines = data_directory() / UNLABELLED
        return sample(labelled_by_reading(headlines, 10**9, 1, kept_aside=True), count), []
    if str(data).startswith("corpus:"):
        examples, unlabelled = held_out_part(data_directory(), str(data).removeprefix("corpus:"))
        return sample(examples, count), unlabelled
    file = labelled_file(data, text_column, label_column, label_map)
    return sample(file.read(labels), count), []
