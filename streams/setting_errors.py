"""What is wrong with a setting, in plain words; and the variables that look like settings and are none."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

#: Our variables that are not settings of the pipeline: they belong to the local stack, the set-up and the tests.
OTHER_VARIABLES = frozenset({"EARLYBELL_HOME", "EARLYBELL_ISA", "EARLYBELL_TORCH", "EARLYBELL_DATA"})

#: Pydantic's type of an error → what the value must be, from the error's context.
_PLAIN: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "int_parsing": lambda _: "it must be a whole number",
    "int_from_float": lambda _: "it must be a whole number",
    "float_parsing": lambda _: "it must be a number",
    "bool_parsing": lambda _: "it must be true or false",
    "path_not_file": lambda _: "there is no such file",
    "literal_error": lambda context: f"it must be {context['expected'].replace(chr(39), '')}",
    "greater_than": lambda context: f"it must be more than {context['gt']:g}",
    "greater_than_equal": lambda context: f"it must be at least {context['ge']:g}",
    "less_than_equal": lambda context: f"it must be at most {context['le']:g}",
}


def plain(error: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors means for the value."""
    words = _PLAIN.get(error["type"])
    return words(error.get("ctx", {})) if words is not None else str(error["msg"]).removeprefix("Value error, ")


def unknown(environment: Iterable[str], prefix: str, fields: Collection[str]) -> list[str]:
    """Return a line about each variable that has the prefix but no meaning: most likely it is misspelt.

    Parameters
    ----------
    environment
        The names of the process's variables.
    prefix
        What the variables of all settings begin with.
    fields
        The names of the settings, in lower case.
    """
    known = {prefix + field.upper() for field in fields} | OTHER_VARIABLES
    lines = []
    for name in sorted(environment):
        if name.upper().startswith(prefix) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.7)
            advice = f"did you mean {close[0]}?" if close else "`earlybell settings` lists them all"
            lines.append(f"unknown setting {name}; {advice}")
    return lines
