"""What a fresh machine meets first: the Makefile's list, the prerequisites' one-line messages, and the lock."""

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
    """An environment whose PATH has a shell's ordinary tools and nothing else."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "sed", "head"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    return {"PATH": str(programs), "HOME": str(tmp_path)}


def program(environment: dict[str, str], name: str, text: str) -> None:
    path = Path(environment["PATH"]) / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def check(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    ran = subprocess.run([PREREQUISITES, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == (1 if ran.returncode else 0)
    return ran.returncode, ran.stderr


def java(version: str) -> str:
    return f"echo 'openjdk version \"{version}\" 2025-01-01' >&2"


def test_make_alone_lists_every_target() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = {line.split()[0] for line in shown.splitlines()}
    assert {"setup", "demo", "test", "lint", "format", "bench", "lock", "clean"} <= listed
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert listed == set(phony[1].split()) - {"servers"}


def test_missing_java_and_maven_are_said_in_one_line(bare: dict[str, str]) -> None:
    code, said = check(bare, "servers")
    assert code == 1 and "Java 17 or newer not found" in said and "apt install" in said
    program(bare, "java", java("11.0.2"))
    code, said = check(bare, "servers")
    assert code == 1 and "is Java 11" in said
    program(bare, "java", java("17.0.15"))
    code, said = check(bare, "servers")
    assert code == 1 and "Maven (mvn) not found" in said
    program(bare, "mvn", "exit 0")
    assert check(bare, "servers") == (0, "")


def test_what_is_there_already_needs_no_maven(bare: dict[str, str]) -> None:
    assert check({**bare, "EARLYBELL_KAFKA_BOOTSTRAP": "127.0.0.1:9092"}, "servers")[0] == 0
    program(bare, "java", java("25"))
    assert check({**bare, "KAFKA_HOME": "/opt/kafka"}, "servers")[0] == 0
    assert check(bare, "servers")[0] == 1
    (Path(bare["HOME"]) / ".cache" / "earlybell" / "kafka-4.3.0").mkdir(parents=True)
    assert check(bare, "servers")[0] == 0


def test_missing_or_old_python_is_said_in_one_line(bare: dict[str, str]) -> None:
    code, said = check(bare, "python", "python3")
    assert code == 1 and "python3 not found: install Python 3.11" in said
    program(bare, "python3", "exit 1")
    code, said = check(bare, "python", "python3")
    assert code == 1 and "older than Python 3.11" in said
    program(bare, "python3", 'case "$2" in *version_info*) exit 0;; *) exit 1;; esac')
    code, said = check(bare, "python", "python3")
    assert code == 1 and "python3-venv" in said


def test_the_lock_has_every_requirement_with_its_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project_requirements = [
        *project["project"]["dependencies"],
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
        wanted = Requirement(text)
        if canonicalize_name(wanted.name) == "earlybell":
            continue
        version = versions.get(canonicalize_name(wanted.name))
        assert version is not None and wanted.specifier.contains(version), f"{text}: run `make lock`"
    assert not re.search(r"https?://", lock), "the lock must not name an index"


def test_continuous_integration_runs_make_test() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)

    assert "exec make test" in run.read_text()
