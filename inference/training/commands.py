"""The commands that make and measure a checkpoint, from `train` and `distil` to `evaluate` and `card`.

Thin; mounted by the CLI. Modules that load torch are imported inside the commands, so that `--help` stays quick. An
option that several commands share is declared once, below.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from earlybell.inference.training.data import Example
    from earlybell.inference.training.labelled import LabelledFile

app = typer.Typer(no_args_is_help=True, help="Train, distil, calibrate and evaluate models.")

#: As in `fit.Training`, which would load torch.
Loss = Literal["learned", "equal", "last", "one-step", "two-step"]

# Where texts come from.
Data = Annotated[Path | None, typer.Option(help="Data directory. Default: EARLYBELL_DATA, else ../shared/data.")]
Labelled = Annotated[
    Path | None,
    typer.Option(
        help="A file of labelled texts (CSV, TSV or JSONL; also .xz, .gz, .bz2) instead of the project's own. "
        "A tenth of it, by a hash of the text, is held out."
    ),
]
LABELLED_TEXTS = typer.Argument(
    help="A file of labelled texts (CSV, TSV or JSONL; also .xz, .gz, .bz2), or corpus:NAME for a held-out part of the "
    "project's own: tfns_validation, sentfin_report, finentity_unseen or written."
)
LabelledTexts = Annotated[Path, LABELLED_TEXTS]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
LabelMap = Annotated[
    list[str] | None, typer.Option(help="FILE=MODEL: rename a label of the file to one of the model. Repeatable.")
]
TrainingTexts = Annotated[int, typer.Option(help="Train on this many texts, sampled by the seed; 0: all.")]
MeasuredTexts = Annotated[int, typer.Option(help="Measure on this many texts, sampled by a fixed seed; 0: all.")]

# What is trained.
Out = Annotated[Path, typer.Argument(help="Directory to write; an interrupted run there resumes.")]
Groups = Annotated[int, typer.Option(help="Sets of layer weights shared by the depths; 0: as in the start.")]
Layers = Annotated[int, typer.Option(help="Number of depths; 0: as in the start.")]

# How it is trained.
Epochs = Annotated[int, typer.Option(help="Passes over the training texts.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate of the encoder.")]
BatchTexts = Annotated[int, typer.Option(help="Maximum texts per batch.")]
Seed = Annotated[int, typer.Option(help="Random seed; the same seed gives the same results on the same machine.")]

Figures = Annotated[
    bool, typer.Option("--figures", help="Let the model read a verdict on the figures in a text: beats, or misses.")
]

# What is measured, and on what it runs.
Checkpoint = Annotated[Path | None, typer.Option(help="Checkpoint directory. Default: the shipped one.")]
Dial = Annotated[float | None, typer.Option(help="0: full depth .. 1: fastest. Default: the checkpoint's.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Precision = Annotated[
    str, typer.Option(help="float32, bfloat16 (mixed: the weights stay in float32), or auto: the faster on the device.")
]


@app.command()
def train(
    out: Out,
    data: Data = None,
    labelled: Labelled = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Which of the project's own texts: tfns, sentfin, finentity. Repeatable.")
    ] = None,
    texts: TrainingTexts = 0,
    start: Annotated[str, typer.Option(help="minilm, or the directory of an ALBERT, BERT or ELBERT.")] = "minilm",
    loss: Annotated[Loss, typer.Option(help="How the exits' losses are weighted; last trains a teacher.")] = "learned",
    groups: Groups = 1,
    layers: Layers = 0,
    epochs: Epochs = 3,
    learning_rate: LearningRate = 6e-5,
    frozen: Annotated[
        int, typer.Option(help="Layers, from the first, that stay as they are, with the embedding; needs --groups 0.")
    ] = 0,
    dropout: Annotated[float, typer.Option(help="Dropout during training; the paper uses none.")] = 0.0,
    alpha: Annotated[
        float, typer.Option(help="ACC: share of tokens that each layer keeps, ramped down from 1 in training.")
    ] = 1.0,
    ramp: Annotated[float, typer.Option(help="ACC: share of training over which alpha is ramped.")] = 1 / 3,
    shared_head: Annotated[
        bool, typer.Option(help="One exit head for all depths, as in the paper, or one per depth.")
    ] = False,
    depth_zero: Annotated[bool, typer.Option(help="Add an exit on the embeddings, before any layer.")] = True,
    batch_texts: BatchTexts = 32,
    batch_tokens: Annotated[int, typer.Option(help="Maximum tokens per batch, padding included.")] = 4_096,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Fit a model with an exit at every depth on TFNS, SEntFiN and FinEntity, or on any labelled file."""
    from earlybell.inference.training.data import SOURCES
    from earlybell.inference.training.fit import Training
    from earlybell.inference.training.fit import train as run
    from earlybell.inference.training.optimise import Schedule, training_precision

    for name in source or ():
        if name not in SOURCES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(SOURCES)}", param_hint="--source")
    schedule = Schedule(
        epochs=epochs, learning_rate=learning_rate, batch_texts=batch_texts, batch_tokens=batch_tokens, seed=seed,
        device=device, precision=training_precision(device, precision),
    )  # fmt: skip
    changes: dict[str, Any] = {"dropout": dropout, "shared_head": shared_head, "depth_zero": depth_zero}
    changes |= {name: value for name, value in (("groups", groups), ("layers", layers)) if value}
    file = None if labelled is None else _labelled_file(labelled, text_column, label_column, label_map)
    figures = run(
        Training(
            data=_data_directory(data) if file is None else Path(), out=out, start=start, changes=changes, loss=loss,
            frozen=frozen, alpha=alpha, ramp=ramp, sources=tuple(source or SOURCES), labelled=file, texts=texts,
            schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(figures))


@app.command()
def distil(
    out: Out,
    teacher: Annotated[list[Path], typer.Option(help="Directory of a teacher; repeat it to average several.")],
    start: Annotated[Path | None, typer.Option(help="Model to start from. Default: the first teacher.")] = None,
    data: Data = None,
    groups: Groups = 1,
    layers: Layers = 0,
    head_width: Annotated[int, typer.Option(help="Width of an exit head's hidden layer.")] = 64,
    filters: Annotated[int, typer.Option(help="Features of three tokens for the exit at depth 0; 0: none.")] = 64,
    vocabulary: Annotated[int, typer.Option(help="Keep this many word pieces, the most frequent; 0: all.")] = 0,
    unlabelled: Annotated[int, typer.Option(help="Number of unlabelled headlines.")] = 60_000,
    repeats: Annotated[int, typer.Option(help="How often each labelled text is read.")] = 3,
    labelled_texts: Annotated[int, typer.Option(help="Number of labelled texts, sampled by the seed; 0: all.")] = 0,
    announcements: Annotated[int, typer.Option(help="Number of generated company announcements.")] = 6_000,
    constructed: Annotated[
        int, typer.Option(help="Number of constructed sentences that teach financial judgement.")
    ] = 0,
    mined: Annotated[int, typer.Option(help="Number of headlines whose label a rule knows for certain.")] = 0,
    emoji: Annotated[bool, typer.Option("--emoji", help="Give emoji pieces of their own in the vocabulary.")] = False,
    figures: Figures = False,
    epochs: Epochs = 1,
    learning_rate: LearningRate = 3e-4,
    head_learning_rate: Annotated[float, typer.Option(help="Peak learning rate of the exit heads.")] = 1e-3,
    temperature: Annotated[float, typer.Option(help="Temperature that softens the teachers' answers.")] = 2.0,
    hard_weight: Annotated[float, typer.Option(help="Weight of the labels' loss against the teachers'.")] = 0.5,
    exits_only: Annotated[
        bool, typer.Option("--exits-only", help="Train only the start's early exits, as FastBERT does.")
    ] = False,
    batch_texts: BatchTexts = 128,
    average: Annotated[
        float, typer.Option(help="Decay of the moving average of the weights, which is what is saved.")
    ] = 0.99,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Train a student on teachers' answers to unlabelled headlines. Resumable."""
    from earlybell.inference.training.distil import Distillation
    from earlybell.inference.training.distil import distil as run
    from earlybell.inference.training.optimise import Schedule, training_precision

    shape = (("groups", groups), ("layers", layers), ("head_hidden", head_width), ("depth_zero_filters", filters))
    changes: dict[str, Any] = {} if exits_only else {name: value for name, value in shape if value}
    if figures:
        changes["figures"] = True
    schedule = Schedule(
        epochs=epochs, learning_rate=learning_rate, head_learning_rate=head_learning_rate, batch_texts=batch_texts,
        seed=seed, device=device, precision=training_precision(device, precision), average=average,
    )  # fmt: skip
    record = run(
        Distillation(
            data=_data_directory(data), out=out, teachers=tuple(teacher), start=start or teacher[0],
            cache=out.parent / "labels", changes=changes, vocabulary=vocabulary, unlabelled=unlabelled,
            labelled_repeats=repeats, labelled=labelled_texts, announcements=announcements, constructed=constructed,
            mined=mined, emoji=emoji, temperature=temperature,
            hard_weight=hard_weight, exits_only=exits_only, schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(record))


@app.command()
def blend(
    out: Out,
    start: Annotated[Path, typer.Argument(help="The model that a training started from.")],
    end: Annotated[Path, typer.Argument(help="The model that it ended with.")],
    share: Annotated[float, typer.Option(help="Share of the end's weights.", min=0.0, max=1.0)] = 0.8,
    figures: Figures = False,
) -> None:
    """Average a model's weights before and after a training: most of what was learned, little of what was forgotten."""
    from earlybell.inference.training.blend import blend as run

    run(out, start, end, share, {"figures": True} if figures else {})


@app.command()
def calibrate(
    directory: Annotated[Path, typer.Argument(help="A trained model, made into a checkpoint in place.")],
    data: Data = None,
    labelled: Labelled = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    name: Annotated[str, typer.Option(help="Name of the model, as signals carry it.")] = "elbert-small",
    lost: Annotated[float, typer.Option(help="Accuracy that the default dial may lose, as a fraction.")] = 0.005,
    table_texts: Annotated[
        int, typer.Option(help="Headlines, or texts of the labelled file, counted in the token table; 0: no table.")
    ] = 20_000,
    windows: Annotated[bool, typer.Option(help="Try confidence windows, or only FastBERT's entropy exit.")] = True,
    behaviour: Annotated[
        Path | None,
        typer.Option(help="Directory of behavioural cases (tests/behaviour/dev) that early exits must not cost."),
    ] = None,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Find temperatures, exit rule, token table and the dial's curve on held-out texts; removes pruning."""
    from earlybell.inference.model.huggingface import read_pretrained
    from earlybell.inference.training.behaviour import as_examples, read_suite
    from earlybell.inference.training.calibrate import Budget
    from earlybell.inference.training.calibrate import calibrate as run
    from earlybell.inference.training.card import CALIBRATION_RECORD_FILE
    from earlybell.inference.training.data import read_corpus, read_unlabelled
    from earlybell.inference.training.labelled import sample, split
    from earlybell.inference.training.optimise import training_precision

    dev: Sequence[Example]
    if labelled is not None:
        file = _labelled_file(labelled, text_column, label_column, label_map)
        counted, dev = split(file.read(read_pretrained(directory)[0].labels))
        texts = [example.text for example in sample(counted, table_texts)] if table_texts else []
    else:
        corpus_directory = _data_directory(data)
        corpus = read_corpus(corpus_directory)
        dev = corpus.dev
        reported = [example for part in corpus.report.values() for example in part]
        texts = (
            read_unlabelled(corpus_directory / "unlabelled_headlines.txt.xz", table_texts, 7, reported)
            + [example.text for example in corpus.train]
            if table_texts
            else []
        )
    budget = Budget(
        name=name, max_loss=lost, windows=windows, device=device, precision=training_precision(device, precision)
    )
    cases = [] if behaviour is None else as_examples(read_suite(behaviour))
    revision, record = run(directory, dev, texts, budget, cases)
    (directory / CALIBRATION_RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    typer.echo(json.dumps({"model_revision": revision, **record}))


@app.command()
def quantise(
    directory: Annotated[Path, typer.Argument(help="A calibrated checkpoint, rewritten in place.")],
    keep_floats: Annotated[
        bool, typer.Option("--keep-floats", help="Keep model.safetensors for training, beside what is served.")
    ] = False,
) -> None:
    """Store a checkpoint's weights in int8, as they are served: half the size, and quicker to load."""
    from earlybell.inference.model import checkpoint

    typer.echo(json.dumps({"model_revision": checkpoint.quantise(directory, keep_floats=keep_floats)}))


@app.command()
def prune(
    directory: Annotated[Path, typer.Argument(help="A calibrated checkpoint, changed in place.")],
    data: Data = None,
    labelled: Labelled = None,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    label_map: LabelMap = None,
    from_tokens: Annotated[int, typer.Option(help="Prune texts of at least this many tokens.", min=2)] = 128,
    lost: Annotated[float, typer.Option(help="Accuracy that pruning may lose at any dial, as a fraction.")] = 0.0075,
    alpha: Annotated[
        list[float] | None, typer.Option(help="ACC: a share of tokens to try. Repeatable. Default: 0.95, 0.9 .. 0.7.")
    ] = None,
    texts: Annotated[int, typer.Option(help="Judge on this many long texts.", min=1)] = 500,
    device: Device = "cpu",
    precision: Precision = "float32",
) -> None:
    """Find how many tokens of long texts the layers may drop, on news articles or any labelled file."""
    from earlybell.inference.model.checkpoint import load
    from earlybell.inference.training.data import read_articles
    from earlybell.inference.training.labelled import split
    from earlybell.inference.training.optimise import training_precision
    from earlybell.inference.training.prune import ALPHAS, Search
    from earlybell.inference.training.prune import prune as run

    dev: Sequence[Example | str]
    if labelled is not None:
        file = _labelled_file(labelled, text_column, label_column, label_map)
        dev = split(file.read(load(directory).config.labels))[1]
    else:
        dev = read_articles(_data_directory(data))[0]
    search = Search(
        alphas=tuple(alpha or ALPHAS), from_tokens=from_tokens, max_loss=lost, texts=texts, device=device,
        precision=training_precision(device, precision),
    )  # fmt: skip
    revision, record = run(directory, dev, search)
    typer.echo(json.dumps({"model_revision": revision, **record}))


@app.command()
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


@app.command()
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
    from earlybell.inference.training.data import read_corpus
    from earlybell.inference.training.optimise import training_precision
    from earlybell.inference.training.plots import plot_comparison
    from earlybell.inference.training.pruning import SPEED_UPS

    loaded = load(checkpoint or SHIPPED)
    examples, unlabelled = _examples(data, loaded.config.labels, text_column, label_column, label_map, texts)
    dev = read_corpus(_data_directory(None)).dev if str(data).startswith("corpus:") else ()
    figures = run(
        loaded, examples, dev=dev, unlabelled=unlabelled, dial=dial, speed_ups=speed_up or SPEED_UPS,
        prune_texts=prune_texts, layer_texts=layer_texts, device=device,
        precision=training_precision(device, precision),
    )  # fmt: skip
    if plot:
        plot_comparison(figures, plot, f"{data.name}, {loaded.calibration.name} {loaded.revision}")
    typer.echo(json.dumps(figures, indent=2))


@app.command()
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
    from earlybell.inference.training.data import read_corpus

    typer.echo(write_card(checkpoint, read_corpus(_data_directory(data)), trained, behaviour or ()))


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


def _data_directory(directory: Path | None) -> Path:
    from earlybell.inference.training.data import DataError, data_directory

    if directory is None:
        return data_directory()
    if not (directory / "sentiment").is_dir():
        raise DataError(f"no training data at {directory}: it has no sentiment/tfns_train.jsonl")
    return directory


def _labelled_file(path: Path, text_column: str, label_column: str, label_map: list[str] | None) -> LabelledFile:
    from earlybell.inference.training.labelled import LabelledFile

    return LabelledFile(
        path=path,
        text_column=text_column,
        label_column=label_column,
        label_map=dict(_parse_label(pair) for pair in label_map or []),
    )


def _examples(
    data: Path,
    labels: Sequence[str],
    text_column: str,
    label_column: str,
    label_map: list[str] | None,
    count: int,
) -> tuple[list[Example], list[str]]:
    """Return the labelled texts that a command measures on, and texts that have no single label."""
    from earlybell.inference.training.data import held_out_part
    from earlybell.inference.training.judgement.written import never_drawn
    from earlybell.inference.training.labelled import sample

    if str(data) == "corpus:written":
        return sample(never_drawn(), count), []
    if str(data).startswith("corpus:"):
        examples, unlabelled = held_out_part(_data_directory(None), str(data).removeprefix("corpus:"))
        return sample(examples, count), unlabelled
    file = _labelled_file(data, text_column, label_column, label_map)
    return sample(file.read(labels), count), []


def _parse_label(pair: str) -> tuple[str, str]:
    name, equals, label = pair.partition("=")
    if not equals:
        raise typer.BadParameter(f"{pair!r}: give FILE=MODEL, such as bullish=positive", param_hint="--label-map")
    return name, label
