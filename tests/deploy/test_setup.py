"""What a new user meets first: the Makefile's list of targets, the check of Python, and the lock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PREREQUISITES = ROOT / "deploy" / "prerequisites.sh"


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing but a shell on its PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    shell = shutil.which("sh")
    assert shell
    (programs / "sh").symlink_to(shell)
    return {"PATH": str(programs), "HOME": str(tmp_path)}


def program(environment: dict[str, str], name: str, text: str) -> None:
    path = Path(environment["PATH"]) / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def check_python(environment: dict[str, str]) -> tuple[int, str]:
    result = subprocess.run([PREREQUISITES, "python3"], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout == ""
    assert result.stderr.count("\n") == (1 if result.returncode else 0)
    return result.returncode, result.stderr


def test_make_alone_lists_every_target() -> None:
    output = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = {line.split()[0] for line in output.splitlines()}
    assert {"setup", "demo", "test", "lint", "format", "bench", "lock", "clean"} <= listed
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert listed == set(phony[1].split())


def test_a_missing_or_old_python_is_reported_in_one_line(bare: dict[str, str]) -> None:
    code, error = check_python(bare)
    assert code == 1 and "python3 not found: install Python 3.11" in error
    program(bare, "python3", "exit 1")
    code, error = check_python(bare)
    assert code == 1 and "older than Python 3.11" in error
    program(bare, "python3", 'case "$2" in *version_info*) exit 0;; *) exit 1;; esac')
    code, error = check_python(bare)
    assert code == 1 and "python3-venv" in error
    program(bare, "python3", "exit 0")
    assert check_python(bare) == (0, "")


def test_the_lock_pins_every_requirement_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project_requirements = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["local"],
        *project["project"]["optional-dependencies"]["train"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["build-system"]["requires"],
    ]
    lock = (ROOT / "requirements" / "lock.txt").read_text()
    blocks = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    versions = {}
    for block in blocks:
        if pinned := re.match(r"([\w.-]+)(?:\[[^]]*\])?==(\S+)", block):
            versions[canonicalize_name(pinned[1])] = pinned[2]
            assert "--hash=sha256:" in block, pinned[1]
    for text in project_requirements:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "earlybell":
            continue
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None and requirement.specifier.contains(version), f"{text}: run `make lock`"
    assert not re.search(r"https?://", lock), "the lock must not name an index"


def test_continuous_integration_runs_make_test() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert "exec make test" in run.read_text()
