"""The commands that train and measure models: `train`, `distil`, `calibrate`, `evaluate`. Thin; mounted by the CLI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from earlybell.inference.training.data import Example

app = typer.Typer(no_args_is_help=True, help="Train, distil, calibrate and evaluate models.")

Dial = Annotated[float | None, typer.Option(help="0: full depth .. 1: fastest. Default: the checkpoint's.")]
Texts = Annotated[int, typer.Option(help="Measure on so many of the texts, drawn by a fixed seed; 0: all.")]
#: As in `fit.Training`, which is not imported here so that `--help` does not load torch.
Loss = Literal["learned", "equal", "last", "one-step", "two-step"]
Data = Annotated[Path | None, typer.Option(help="Directory of the data. Default: EARLYBELL_DATA, else ../shared/data.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="float32 or bfloat16 (mixed: weights stay in float32).")]
Seed = Annotated[int, typer.Option(help="Same seed, same figures on the same machine.")]
TextColumn = Annotated[str, typer.Option(help="Column of the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column of the label.")]
LabelMap = Annotated[list[str] | None, typer.Option(help="FILE=MODEL: a label's name there and here.")]
Measured = Annotated[
    Path,
    typer.Argument(
        help="CSV, TSV or JSONL of text and label, plain or as .xz, .gz or .bz2; or corpus:NAME, a part of the "
        "project's own texts that was not trained on: tfns_validation, sentfin_report, finentity_unseen."
    ),
]
Labelled = Annotated[
    Path | None,
    typer.Option(
        help="A file of labelled texts (CSV, TSV, JSONL; .xz, .gz, .bz2) instead of the project's own; "
        "a tenth is set aside by a hash of the text."
    ),
]


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Directory to write; an interrupted run there goes on.")],
    data: Data = None,
    labelled: Labelled = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    source: Annotated[list[str] | None, typer.Option(help="Of the project's own: tfns, sentfin, finentity.")] = None,
    texts: Annotated[int, typer.Option(help="Train on so many of the texts, drawn by the seed; 0: all.")] = 0,
    start: Annotated[str, typer.Option(help="minilm, or the directory of an ALBERT, BERT or ELBERT.")] = "minilm",
    loss: Annotated[Loss, typer.Option(help="How the exits' errors are weighted; last: a teacher.")] = "learned",
    groups: Annotated[int, typer.Option(help="Sets of weights that the depths share; 0: as the start has.")] = 1,
    layers: Annotated[int, typer.Option(help="Depths; 0: as the start has.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the labelled texts.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of the encoder, at its peak.")] = 6e-5,
    dropout: Annotated[float, typer.Option(help="In training; the paper uses none.")] = 0.0,
    alpha: Annotated[float, typer.Option(help="ACC: share of tokens that a layer keeps, ramped from 1.")] = 1.0,
    ramp: Annotated[float, typer.Option(help="ACC: share of training in which it gets there.")] = 1 / 3,
    shared_head: Annotated[bool, typer.Option(help="One head for all depths, as in the paper, or one each.")] = False,
    depth_zero: Annotated[bool, typer.Option(help="An exit on the embeddings, before any layer.")] = True,
    batch_texts: Annotated[int, typer.Option(help="Texts of a batch.")] = 32,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a batch, padding counted.")] = 4_096,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "bfloat16",
) -> None:
    """Fit a model on TFNS, SEntFiN and FinEntity, or on any labelled file, with an exit at every depth."""
    from earlybell.inference.training.data import SOURCES
    from earlybell.inference.training.fit import Training
    from earlybell.inference.training.fit import train as run
    from earlybell.inference.training.labelled import LabelledFile
    from earlybell.inference.training.optimise import Schedule

    for one in source or ():
        if one not in SOURCES:
            raise typer.BadParameter(f"{one!r} is none of {', '.join(SOURCES)}", param_hint="--source")
    schedule = Schedule(
        epochs=epochs, learning_rate=learning_rate, batch_texts=batch_texts, batch_tokens=batch_tokens, seed=seed,
        device=device, precision=precision,
    )  # fmt: skip
    changes: dict[str, Any] = {"dropout": dropout, "shared_head": shared_head, "depth_zero": depth_zero}
    changes |= {name: value for name, value in (("groups", groups), ("layers", layers)) if value}
    file = None
    if labelled is not None:
        file = LabelledFile(
            path=labelled, text_column=text_column, label_column=label_column, label_map=_pairs(label_map)
        )
    figures = run(
        Training(
            data=_data(data) if file is None else Path(), out=out, start=start, changes=changes, loss=loss,
            alpha=alpha, ramp=ramp, sources=tuple(source or SOURCES), labelled=file, texts=texts,
            schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(figures))


@app.command()
def distil(
    out: Annotated[Path, typer.Argument(help="Directory to write; an interrupted run there goes on.")],
    teacher: Annotated[list[Path], typer.Option(help="Directory of a teacher; several are averaged.")],
    start: Annotated[Path | None, typer.Option(help="What it starts from. Default: the first teacher.")] = None,
    data: Data = None,
    groups: Annotated[int, typer.Option(help="Sets of weights that the depths share; 0: as the start has.")] = 1,
    layers: Annotated[int, typer.Option(help="Depths; 0: as the start has.")] = 0,
    head_width: Annotated[int, typer.Option(help="Of an exit's hidden layer.")] = 64,
    filters: Annotated[int, typer.Option(help="Features of three tokens for the exit at depth 0; 0: none.")] = 64,
    vocabulary: Annotated[int, typer.Option(help="Word pieces to keep, the most frequent; 0: all.")] = 0,
    unlabelled: Annotated[int, typer.Option(help="Unlabelled headlines to read.")] = 60_000,
    repeats: Annotated[int, typer.Option(help="Times that each labelled text is read.")] = 3,
    announcements: Annotated[int, typer.Option(help="Made-up company announcements to read beside them.")] = 6_000,
    epochs: Annotated[int, typer.Option(help="Passes over all of it.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Of the encoder, at its peak.")] = 3e-4,
    temperature: Annotated[float, typer.Option(help="That softens the teacher's answers.")] = 2.0,
    hard_weight: Annotated[float, typer.Option(help="Weight of the labels beside the teacher.")] = 0.5,
    exits_only: Annotated[
        bool, typer.Option("--exits-only", help="Teach the start's early exits, and nothing else: FastBERT's way.")
    ] = False,
    batch_texts: Annotated[int, typer.Option(help="Texts of a batch.")] = 128,
    average: Annotated[float, typer.Option(help="Decay of the average of the weights, which is kept.")] = 0.99,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "bfloat16",
) -> None:
    """Teach a shared-layer student what teachers say of unlabelled headlines. Resumable."""
    from earlybell.inference.training.distil import Distillation
    from earlybell.inference.training.distil import distil as run
    from earlybell.inference.training.optimise import Schedule

    shape = (("groups", groups), ("layers", layers), ("head_hidden", head_width), ("depth_zero_filters", filters))
    changes = {} if exits_only else {name: value for name, value in shape if value}
    schedule = Schedule(
        epochs=epochs, learning_rate=learning_rate, head_learning_rate=1e-3, batch_texts=batch_texts, seed=seed,
        device=device, precision=precision, average=average,
    )  # fmt: skip
    figures = run(
        Distillation(
            data=_data(data), out=out, teachers=tuple(teacher), start=start or teacher[0],
            cache=out.parent / "labels", changes=changes, vocabulary=vocabulary, unlabelled=unlabelled,
            labelled_repeats=repeats, announcements=announcements, temperature=temperature,
            hard_weight=hard_weight, exits_only=exits_only, schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(figures))


@app.command()
def calibrate(
    directory: Annotated[Path, typer.Argument(help="A trained model; becomes a checkpoint in place.")],
    data: Data = None,
    labelled: Labelled = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    name: Annotated[str, typer.Option(help="The model's name, as signals give it.")] = "elbert-small",
    lost: Annotated[float, typer.Option(help="Accuracy that the default dial may lose, as a share.")] = 0.005,
    alpha: Annotated[list[float] | None, typer.Option(help="ACC: a share of tokens that may be tried.")] = None,
    table_texts: Annotated[
        int, typer.Option(help="Headlines that the token table counts, or texts of the labelled file; 0: none.")
    ] = 20_000,
    windows: Annotated[bool, typer.Option(help="Try exits by a window, or only FastBERT's, by entropy.")] = True,
    device: Device = "cpu",
    precision: Precision = "bfloat16",
) -> None:
    """Find temperatures, exits, pruning, token table and the dial's curve on what was set aside from training."""
    from earlybell.inference.model.huggingface import read_pretrained
    from earlybell.inference.training.calibrate import Budget
    from earlybell.inference.training.calibrate import calibrate as run
    from earlybell.inference.training.card import CALIBRATION_RECORD_FILE
    from earlybell.inference.training.data import read_corpus, read_unlabelled
    from earlybell.inference.training.labelled import LabelledFile, drawn, split

    dev: Sequence[Example]
    if labelled is not None:
        file = LabelledFile(
            path=labelled, text_column=text_column, label_column=label_column, label_map=_pairs(label_map)
        )
        counted, dev = split(file.read(read_pretrained(directory)[0].labels))
        texts = [one.text for one in drawn(counted, table_texts)] if table_texts else []
    else:
        directory_of_data = _data(data)
        corpus = read_corpus(directory_of_data)
        dev = corpus.dev
        reported = [one for part in corpus.report.values() for one in part]
        texts = (
            read_unlabelled(directory_of_data / "unlabelled_headlines.txt.xz", table_texts, 7, reported)
            + [one.text for one in corpus.train]
            if table_texts
            else []
        )
    budget = Budget(
        name=name, lost=lost, alphas=tuple(alpha or (1.0,)), windows=windows, device=device, precision=precision
    )  # fmt: skip
    revision, found = run(directory, dev, texts, budget)
    (directory / CALIBRATION_RECORD_FILE).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    typer.echo(json.dumps({"model_revision": revision, **found}))


@app.command()
def evaluate(
    data: Measured,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the checkpoint that is shipped.")] = None,
    dial: Dial = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    texts: Texts = 0,
    curve: Annotated[bool, typer.Option("--curve", help="All settings of the dial.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw accuracy against cost into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    strategy: Annotated[str, typer.Option(help="padded, shrink or presort.")] = "presort",
    device: Device = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one for each core.")] = 0,
) -> None:
    """Measure a checkpoint on labelled texts, through the engine, as it is served."""
    from earlybell.inference.model.checkpoint import SHIPPED, load
    from earlybell.inference.training import evaluate as evaluation
    from earlybell.inference.training.plots import draw_dial

    labels = load(checkpoint or SHIPPED).model.config.labels
    examples, _ = _examples(data, labels, text_column, label_column, label_map, texts)
    how: dict[str, Any] = {
        "checkpoint": checkpoint, "device": device, "precision": precision, "threads": threads,
        "strategy": strategy,
    }  # fmt: skip
    figures: dict[str, Any] = evaluation.evaluate(examples, dial=dial, **how)
    if curve or plot:
        figures["curve"] = evaluation.evaluate_curve(examples, **how)
    if plot:
        draw_dial(figures["curve"], plot, f"{data.name}, {figures['model_revision']}")
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        if name != "curve":
            typer.echo(f"{name}: {value}")
    for one in figures.get("curve", []):
        typer.echo(
            f"dial {one['dial']:.2f}: accuracy {one['accuracy']:.4f}, macro-F1 {one['macro_f1']:.4f}, "
            f"mean depth {one['mean_depth']:.2f}, {one['texts_per_second']:.0f} texts/s"
        )


@app.command()
def compare(
    data: Measured,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the checkpoint that is shipped.")] = None,
    dial: Dial = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    texts: Texts = 0,
    speed_up: Annotated[
        list[float] | None, typer.Option(help="Try pruning at these. Default: 1.5, 2, 3, 4, 4.8.")
    ] = None,
    prune_texts: Annotated[
        int, typer.Option(help="Measure pruning, which is slow, on the first so many of them; 0: all, -1: not at all.")
    ] = 0,
    layer_texts: Annotated[int, typer.Option(help="One layer's pruning at a time: on so many of these; 0: all.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw exit curves and pruning's sweep into this file.")] = None,
    device: Device = "cpu",
    precision: Precision = "bfloat16",
) -> None:
    """Compare exits, depth prediction and pruning with what they are measured against. Prints one JSON object.

    Pruning is timed by the processor time of this process, so for figures that hold use one thread
    (OMP_NUM_THREADS=1).
    """
    from earlybell.inference.model.checkpoint import SHIPPED, load
    from earlybell.inference.training.comparisons import compare as run
    from earlybell.inference.training.plots import draw_comparison
    from earlybell.inference.training.pruning import SPEED_UPS

    loaded = load(checkpoint or SHIPPED)
    examples, further = _examples(data, loaded.model.config.labels, text_column, label_column, label_map, texts)
    figures = run(
        loaded, examples, further=further, dial=dial, speed_ups=speed_up or SPEED_UPS, prune_texts=prune_texts,
        layer_texts=layer_texts, device=device, precision=precision,
    )  # fmt: skip
    if plot:
        draw_comparison(figures, plot, f"{data.name}, {loaded.calibration.name} {loaded.revision}")
    typer.echo(json.dumps(figures, indent=2))


@app.command()
def card(
    checkpoint: Annotated[Path, typer.Argument(help="A calibrated checkpoint; its README.md is written.")],
    trained: Annotated[str, typer.Option(help="A paragraph on how the weights came about.")],
    data: Data = None,
) -> None:
    """Measure a checkpoint on what is only reported, and write its model card."""
    from earlybell.inference.training.card import write_card
    from earlybell.inference.training.data import read_corpus

    typer.echo(write_card(checkpoint, read_corpus(_data(data)), trained))


def _data(given: Path | None) -> Path:
    from earlybell.inference.training.data import DataError, data_directory

    if given is None:
        return data_directory()
    if not (given / "sentiment").is_dir():
        raise DataError(f"no training data at {given}: it has no sentiment/tfns_train.jsonl")
    return given


def _examples(
    data: Path,
    labels: Sequence[str],
    text_column: str,
    label_column: str,
    label_map: list[str] | None,
    texts: int,
) -> tuple[list[Example], list[str]]:
    """The labelled texts that a command measures on, and further ones that have no single label."""
    from earlybell.inference.training.data import part_of_corpus
    from earlybell.inference.training.labelled import LabelledFile, drawn

    if str(data).startswith("corpus:"):
        labelled, further = part_of_corpus(_data(None), str(data).removeprefix("corpus:"))
        return drawn(labelled, texts), further
    file = LabelledFile(path=data, text_column=text_column, label_column=label_column, label_map=_pairs(label_map))
    return drawn(file.read(labels), texts), []


def _pairs(label_map: list[str] | None) -> dict[str, str]:
    return dict(_pair(one) for one in label_map or [])


def _pair(text: str) -> tuple[str, str]:
    name, equals, label = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: give FILE=MODEL, such as bullish=positive", param_hint="--label-map")
    return name, label
