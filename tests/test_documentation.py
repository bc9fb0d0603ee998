"""`docs/commands.md` lists every command, the README links only to files that exist, each setting has a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from earlybell.streams.cli import app
from earlybell.streams.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def commands() -> set[str]:
    group = typer.main.get_command(app)
    names = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        names |= {f"{name} {inner}" for inner in command.commands} if hasattr(command, "commands") else {name}
    return names


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_documented(command: str) -> None:
    rows = [row for row in COMMANDS.splitlines() if row.startswith("| `earlybell")]
    words = {word for row in rows for word in re.findall(r"[a-z-]+", row.split("|")[1])}
    assert set(command.split()) <= words


def test_every_command_in_the_documents_exists() -> None:
    mentioned = re.findall(
        r"earlybell ((?:db )?[a-z]+)", re.sub(r"\n\| `earlybell", "\n| earlybell", README + COMMANDS)
    )
    assert {name for name in mentioned if name != "is"} <= commands() | {"db"}


def test_every_setting_has_a_full_sentence() -> None:
    for name, field in Settings.model_fields.items():
        description = field.description or ""
        assert description[:1].isupper(), name
        assert description.endswith("."), name


def test_every_file_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("file", [ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")], ids=lambda file: file.name)
def test_every_link_in_the_other_documents_leads_somewhere(file: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, link
