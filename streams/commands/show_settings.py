"""`earlybell settings`: print every setting with its variable, its current value and its description."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr

from earlybell.deploy.local import postgres
from earlybell.masking import MASK, masked
from earlybell.streams.settings import ENV_PREFIX, Settings


@dataclass(frozen=True, slots=True)
class Listed:
    """One setting, as it is printed."""

    variable: str
    value: str  # secrets masked
    given: bool  # by the environment, not a default
    description: str


def listing(settings: Settings) -> Iterator[Listed]:
    """Return every setting, in the order of declaration."""
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "database_url":
            shown = postgres.without_password(settings.database)  # its host is not a secret
        elif isinstance(value, SecretStr):
            shown = MASK
        else:
            shown = "" if value is None else masked(str(value))
        yield Listed(ENV_PREFIX + name.upper(), shown, name in settings.model_fields_set, field.description or "")


def show(settings: Settings) -> None:
    """Print the settings: as a table on a terminal, otherwise as an environment file."""
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
