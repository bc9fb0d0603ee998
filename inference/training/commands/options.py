"""The options that making and measuring a checkpoint share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from earlybell.inference.training.labelled import LabelledFile

Data = Annotated[Path | None, typer.Option(help="Data directory. Default: EARLYBELL_DATA, else ../shared/data.")]
TextColumn = Annotated[str, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str, typer.Option(help="Column that holds the label.")]
LabelMap = Annotated[
    list[str] | None, typer.Option(help="FILE=MODEL: rename a label of the file to one of the model. Repeatable.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Precision = Annotated[
    str, typer.Option(help="float32, bfloat16 (mixed: the weights stay in float32), or auto: the faster on the device.")
]


def labelled_file(path: Path, text_column: str, label_column: str, label_map: list[str] | None) -> LabelledFile:
    """Return the file of labelled texts that the options describe."""
    from earlybell.inference.training.labelled import LabelledFile

    return LabelledFile(
        path=path,
        text_column=text_column,
        label_column=label_column,
        label_map=dict(_parse_label(pair) for pair in label_map or []),
    )


def _parse_label(pair: str) -> tuple[str, str]:
    name, equals, label = pair.partition("=")
    if not equals:
        raise typer.BadParameter(f"{pair!r}: give FILE=MODEL, such as bullish=positive", param_hint="--label-map")
    return name, label
