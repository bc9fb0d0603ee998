"""The commands that make and measure a checkpoint, from `pretrain` to `evaluate` and `card`; for the CLI."""

from __future__ import annotations

import typer

from earlybell.inference.training.commands.making import (
    blend,
    calibrate,
    distil,
    pretrain,
    prune,
    quantise,
    train,
    train_teacher,
)
from earlybell.inference.training.commands.measuring import card, compare, evaluate

app = typer.Typer(no_args_is_help=True, help="Train, distil, calibrate and evaluate models.")
for command in (pretrain, train, train_teacher, distil, blend, calibrate, quantise, prune, evaluate, compare, card):
    app.command()(command)
