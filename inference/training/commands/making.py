"""The commands that make a checkpoint: pre-train, train or distil a model, calibrate it, store it as it is served.

Modules that load torch are imported inside the commands, so that `--help` stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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

Labelled = Annotated[
    Path | None,
    typer.Option(
        help="A file of labelled texts (CSV, TSV or JSONL; also .xz, .gz, .bz2) instead of the project's own. "
        "A tenth of it, by a hash of the text, is held out."
    ),
]
Out = Annotated[Path, typer.Argument(help="Directory to write; an interrupted run there resumes.")]
Groups = Annotated[int, typer.Option(help="Sets of layer weights shared by the depths; 0: as in the start.")]
Layers = Annotated[
    int,
    typer.Option(help="Number of depths; 0: as in the start. Of layers that share no weights the first are kept."),
]
Epochs = Annotated[int, typer.Option(help="Passes over the training texts.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate of the encoder.")]
BatchTexts = Annotated[int, typer.Option(help="Maximum texts per batch.")]
Seed = Annotated[int, typer.Option(help="Random seed; the same seed gives the same results on the same machine.")]
Figures = Annotated[
    bool, typer.Option("--figures", help="Let the model read a verdict on the figures in a text: beats, or misses.")
]
#: As in `fit.Training`, which would load torch.
Loss = Literal["learned", "equal", "last", "one-step", "two-step"]


def pretrain(
    out: Out,
    start: Annotated[str, typer.Option(help="minilm, or the directory of an ALBERT, BERT or ELBERT.")] = "minilm",
    data: Data = None,
    headlines: Annotated[
        int, typer.Option(help="Number of unlabelled headlines, sampled by the seed.", min=1)
    ] = 100_000,
    mask: Annotated[float, typer.Option(help="Share of the tokens to hide; more than 0, less than 1.")] = 0.15,
    groups: Groups = 0,
    epochs: Epochs = 1,
    learning_rate: LearningRate = 1e-4,
    head_learning_rate: Annotated[
        float, typer.Option(help="Peak learning rate of the head that guesses the tokens, which is not kept.")
    ] = 1e-3,
    batch_texts: BatchTexts = 64,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Go on pre-training a backbone on unlabelled headlines: it guesses hidden tokens. Resumable."""
    from earlybell.inference.training.data import data_directory
    from earlybell.inference.training.masked_language import Pretraining
    from earlybell.inference.training.masked_language import pretrain as run
    from earlybell.inference.training.optimise import Schedule, training_precision

    if not 0 < mask < 1:
        raise typer.BadParameter(f"{mask:g} is not more than 0 and less than 1", param_hint="--mask")
    schedule = Schedule(
        epochs=epochs, learning_rate=learning_rate, head_learning_rate=head_learning_rate, batch_texts=batch_texts,
        seed=seed, device=device, precision=training_precision(device, precision),
    )  # fmt: skip
    figures = run(
        Pretraining(
            data=data_directory(data), out=out, start=start, changes={"groups": groups} if groups else {},
            headlines=headlines, share=mask, schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(figures))


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
    texts: Annotated[int, typer.Option(help="Train on this many texts, sampled by the seed; 0: all.")] = 0,
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
    from earlybell.inference.training.data import SOURCES, data_directory
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
    file = None if labelled is None else labelled_file(labelled, text_column, label_column, label_map)
    figures = run(
        Training(
            data=data_directory(data) if file is None else Path(), out=out, start=start, changes=changes, loss=loss,
            frozen=frozen, alpha=alpha, ramp=ramp, sources=tuple(source or SOURCES), labelled=file, texts=texts,
            schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(figures))


def train_teacher(
    out: Out,
    start: Annotated[
        str, typer.Option(help="minilm, or the directory of any encoder that transformers loads, or of a teacher.")
    ],
    data: Data = None,
    repeats: Annotated[int, typer.Option(help="How often each labelled text is read.", min=1)] = 3,
    constructed: Annotated[
        int, typer.Option(help="Number of constructed sentences that teach financial judgement.")
    ] = 0,
    by_reading: Annotated[int, typer.Option(help="Number of headlines that a reader labelled.")] = 0,
    learning_rate: LearningRate = 4e-5,
    layer_decay: Annotated[float, typer.Option(help="Learning rate of a layer, of that of the layer above.")] = 0.93,
    batch_texts: BatchTexts = 32,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Fit a teacher of any architecture, such as a larger one, for `distil --teacher`. Resumable."""
    from earlybell.inference.training.data import data_directory
    from earlybell.inference.training.encoder_teacher import TeacherTraining
    from earlybell.inference.training.encoder_teacher import train_teacher as run
    from earlybell.inference.training.optimise import Schedule, training_precision

    schedule = Schedule(
        epochs=1, learning_rate=learning_rate, head_learning_rate=10 * learning_rate, layer_decay=layer_decay,
        batch_texts=batch_texts, seed=seed, device=device, precision=training_precision(device, precision),
    )  # fmt: skip
    figures = run(
        TeacherTraining(
            data=data_directory(data), out=out, start=start, labelled_repeats=repeats, constructed=constructed,
            by_reading=by_reading, schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(figures))


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
    posts: Annotated[int, typer.Option(help="Number of unlabelled tweets.")] = 0,
    repeats: Annotated[int, typer.Option(help="How often each labelled text is read.")] = 3,
    labelled_texts: Annotated[int, typer.Option(help="Number of labelled texts, sampled by the seed; 0: all.")] = 0,
    announcements: Annotated[int, typer.Option(help="Number of generated company announcements.")] = 6_000,
    constructed: Annotated[
        int, typer.Option(help="Number of constructed sentences that teach financial judgement.")
    ] = 0,
    mined: Annotated[int, typer.Option(help="Number of headlines whose label a rule knows for certain.")] = 0,
    by_reading: Annotated[int, typer.Option(help="Number of headlines that a reader labelled.")] = 0,
    smoothing: Annotated[
        float,
        typer.Option(help="Label smoothing of announcements, constructed, mined and read texts.", min=0.0, max=1.0),
    ] = 0.15,
    taught: Annotated[
        float,
        typer.Option(
            help="Share of the teachers' answers in what is learned from announcements, constructed, mined and read "
            "texts; 0: their labels alone.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.0,
    emoji: Annotated[bool, typer.Option("--emoji", help="Give emoji pieces of their own in the vocabulary.")] = False,
    figures: Figures = False,
    epochs: Epochs = 1,
    learning_rate: LearningRate = 3e-4,
    head_learning_rate: Annotated[float, typer.Option(help="Peak learning rate of the exit heads.")] = 1e-3,
    temperature: Annotated[float, typer.Option(help="Temperature that softens the teachers' answers.")] = 2.0,
    hard_weight: Annotated[float, typer.Option(help="Weight of the labels' loss against the teachers'.")] = 0.5,
    opposite_weight: Annotated[
        float, typer.Option(help="Weight of a loss that keeps labelled texts from the opposite answer.")
    ] = 0.0,
    exit_weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of an exit's loss; repeat it, one for each exit from the first. Default: all equal."),
    ] = None,
    exits_only: Annotated[
        bool, typer.Option("--exits-only", help="Train only the start's early exits, as FastBERT does.")
    ] = False,
    batch_texts: BatchTexts = 128,
    average: Annotated[
        float, typer.Option(help="Decay of the moving average of the weights, which is what is saved.")
    ] = 0.99,
    seed: Seed = 1,
    texts_seed: Annotated[
        int | None,
        typer.Option(help="Seed that draws the texts. Another --seed with it reads the same texts. Default: --seed."),
    ] = None,
    device: Device = "cpu",
    precision: Precision = "auto",
) -> None:
    """Train a student on teachers' answers to unlabelled headlines. Resumable."""
    from earlybell.inference.training.data import data_directory
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
            data=data_directory(data), out=out, teachers=tuple(teacher), start=start or teacher[0],
            cache=out.parent / "labels", changes=changes, vocabulary=vocabulary, unlabelled=unlabelled, posts=posts,
            labelled_repeats=repeats, labelled=labelled_texts, announcements=announcements, constructed=constructed,
            mined=mined, by_reading=by_reading, smoothing=smoothing, taught=taught, emoji=emoji,
            temperature=temperature, hard_weight=hard_weight, opposite_weight=opposite_weight,
            exit_weights=tuple(exit_weight or ()), exits_only=exits_only, texts_seed=texts_seed, schedule=schedule,
        )
    )  # fmt: skip
    typer.echo(json.dumps(record))


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
    """Calibrate confidences and find exits, token table and the dial's curve on held-out texts; removes pruning."""
    from earlybell.inference.model.huggingface import read_pretrained
    from earlybell.inference.training.behaviour import as_examples, read_suite
    from earlybell.inference.training.calibrate import Budget
    from earlybell.inference.training.calibrate import calibrate as run
    from earlybell.inference.training.card import CALIBRATION_RECORD_FILE
    from earlybell.inference.training.data import UNLABELLED, data_directory, read_corpus, read_unlabelled
    from earlybell.inference.training.labelled import sample, split
    from earlybell.inference.training.optimise import training_precision

    dev: Sequence[Example]
    if labelled is not None:
        file = labelled_file(labelled, text_column, label_column, label_map)
        counted, dev = split(file.read(read_pretrained(directory)[0].labels))
        texts = [example.text for example in sample(counted, table_texts)] if table_texts else []
    else:
        corpus_directory = data_directory(data)
        corpus = read_corpus(corpus_directory)
        dev = corpus.dev
        reported = [example for part in corpus.report.values() for example in part]
        texts = (
            read_unlabelled(corpus_directory / UNLABELLED, table_texts, 7, reported)
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


def quantise(
    directory: Annotated[Path, typer.Argument(help="A calibrated checkpoint, rewritten in place.")],
    keep_floats: Annotated[
        bool, typer.Option("--keep-floats", help="Keep model.safetensors for training, beside what is served.")
    ] = False,
) -> None:
    """Store a checkpoint's weights in int8, as they are served: half the size, and quicker to load."""
    from earlybell.inference.model import checkpoint

    typer.echo(json.dumps({"model_revision": checkpoint.quantise(directory, keep_floats=keep_floats)}))


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
    from earlybell.inference.training.data import data_directory, read_articles
    from earlybell.inference.training.labelled import split
    from earlybell.inference.training.optimise import training_precision
    from earlybell.inference.training.prune import ALPHAS, Search
    from earlybell.inference.training.prune import prune as run

    dev: Sequence[Example | str]
    if labelled is not None:
        file = labelled_file(labelled, text_column, label_column, label_map)
        dev = split(file.read(load(directory).config.labels))[1]
    else:
        dev = read_articles(data_directory(data))[0]
    search = Search(
        alphas=tuple(alpha or ALPHAS), from_tokens=from_tokens, max_loss=lost, texts=texts, device=device,
        precision=training_precision(device, precision),
    )  # fmt: skip
    revision, record = run(directory, dev, search)
    typer.echo(json.dumps({"model_revision": revision, **record}))
