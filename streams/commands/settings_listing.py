"""Lists the settings for people: each with its variable, what it is now, and why one would change it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr, ValidationError

from earlybell.streams.exceptions import CommandError
from earlybell.streams.logs import MASK, masked
from earlybell.streams.settings import Settings

PREFIX = "EARLYBELL_"
#: Variables of ours that are no settings of the pipeline: of the local stack, the set-up and the tests.
OTHERS = frozenset({"EARLYBELL_HOME", "EARLYBELL_TORCH", "EARLYBELL_DATA"})


@dataclass(frozen=True, slots=True)
class Listed:
    """One setting: its variable, its value with secrets masked, where that is from, and what it is for."""

    variable: str
    value: str
    given: bool  # by the environment
    description: str


def load() -> Settings:
    """The settings of this process.

    Raises
    ------
    CommandError
        A variable's value will not do.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        shown = masked(repr(first["input"])) if "PASSWORD" not in variable and "URL" not in variable else MASK
        raise CommandError(f"{variable}={shown} will not do: {first['msg']}") from error


def listing(settings: Settings) -> Iterator[Listed]:
    """Every setting, in the order in which they are declared."""
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "database_url":
            shown = masked(settings.database)  # its host is no secret
        elif isinstance(value, SecretStr):
            shown = MASK
        else:
            shown = "" if value is None else str(value)
        yield Listed(PREFIX + name.upper(), shown, name in settings.model_fields_set, field.description or "")


def unknown_variables() -> list[str]:
    """Variables that begin as ours do and mean nothing: misspelt, most likely."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHERS
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def show(settings: Settings) -> None:
    """Print the settings: a table on a terminal, else as lines of an environment file."""
    rows = list(listing(settings))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("variable", "value", "", box=None, pad_edge=False)
        for row in rows:
            table.add_row(
                row.variable, f"[bold]{row.value}[/]" if row.given else row.value, f"[dim]{row.description}[/]"
            )
        Console().print(table)
    else:
        for row in rows:
            print(f"# {row.description}\n{'' if row.given else '#'}{row.variable}={row.value}")
    for name in unknown_variables():
        print(f"{name} is no setting of ours: misspelt?", file=sys.stderr)
