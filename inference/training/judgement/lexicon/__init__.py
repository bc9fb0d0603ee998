"""The words of the grammar, in files beside this one: one entry a line, "#" starts a comment, "[name]" a section.

" | " separates what belongs together: two opposite wordings, the good one first, or alternatives.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_DIRECTORY = Path(__file__).parent


def lines(file: str) -> tuple[str, ...]:
    """Return the entries of a file without sections."""
    return section(file, "")


def section(file: str, name: str) -> tuple[str, ...]:
    """Return the entries of a section."""
    return sections(file)[name]


def files(directory: str) -> tuple[str, ...]:
    """Return the names of the files in a directory of the lexicon, for `sections`."""
    return tuple(sorted(f"{directory}/{file.stem}" for file in (_DIRECTORY / directory).glob("*.txt")))


@cache
def pairs(file: str, name: str) -> tuple[tuple[str, str], ...]:
    """Return the entries of a section of opposites: good, bad, unless the section has another order."""
    found = []
    for entry in section(file, name):
        good, bad = options(entry)
        found.append((good, bad))
    return tuple(found)


def options(entry: str) -> tuple[str, ...]:
    """Split what " | " separates."""
    return tuple(part.strip() for part in entry.split(" | "))


@cache
def sections(file: str) -> dict[str, tuple[str, ...]]:
    """Return the entries of every section; those before the first are under ""."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (_DIRECTORY / f"{file}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
            found.setdefault(name, [])
        elif line and not line.startswith("#"):
            found[name].append(line)
    return {name: tuple(entries) for name, entries in found.items()}
