"""Where Kafka's jars and Java come from, and what is said when they cannot be had.

Maven and Java are stood in for by small scripts on the PATH: what is tested is what we make of their absence, their
failure and their interruption. The real ones are used by every test that takes `kafka_bootstrap`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest

from earlybell.deploy.local import jars
from earlybell.deploy.local.exceptions import StackError

FETCH = "from earlybell.deploy.local import jars; print(jars.jars(lambda line: None))"
#: Copies one jar and then the others, as Maven does; `{between}` happens in the middle.
MAVEN = """#!/bin/sh
for word; do case "$word" in -DoutputDirectory=*) to="${{word#*=}}";; esac; done
echo run >> "$RUNS"
touch "$to/a.jar"
{between}
touch "$to/kafka_2.13-4.3.0.jar"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is searched before the rest of the PATH, and a cache of the test's own."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    for name in ("JAVA_HOME", "KAFKA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return directory


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def silent(_: str) -> None:
    return None


def cached() -> Path:
    return platformdirs.user_cache_path("earlybell") / f"kafka-{jars.VERSION}"


def test_no_java(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(
        StackError, match=r"No Java found.*install Java 17.*apt install.*EARLYBELL_KAFKA_BOOTSTRAP"
    ) as said:
        jars.java()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.22", "16"])
def test_a_java_that_is_too_old(programs: Path, version: str) -> None:
    program(programs / "java", f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-16' >&2\n")
    with pytest.raises(StackError, match=r"is Java (8|11|16), too old for Kafka 4: install Java 17"):
        jars.java()


@pytest.mark.parametrize("script", ["exit 1", "echo 'no version here' >&2"])
def test_a_java_that_does_not_run(programs: Path, script: str) -> None:
    """On macOS there is a `java` where there is no Java."""
    program(programs / "java", f"#!/bin/sh\n{script}\n")
    with pytest.raises(StackError, match="install Java 17"):
        jars.java()


def test_java_home_goes_before_the_path(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs / "java", "#!/bin/sh\necho 'openjdk version \"11.0.22\"' >&2\n")
    mine = tmp_path / "jdk" / "bin"
    mine.mkdir(parents=True)
    program(mine / "java", "#!/bin/sh\necho 'openjdk version \"25\" 2025-09-16' >&2\n")
    monkeypatch.setenv("JAVA_HOME", str(mine.parent))
    assert jars.java() == mine / "java"


def test_kafka_home(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    with pytest.raises(StackError, match="KAFKA_HOME is"):
        jars.jars(silent)
    (tmp_path / "kafka" / "libs").mkdir(parents=True)
    (tmp_path / "kafka" / "libs" / "kafka_2.13-4.1.0.jar").touch()
    assert jars.jars(silent) == tmp_path / "kafka" / "libs"
    assert not cached().exists()


def test_no_maven(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(StackError, match=r"No Maven.*apt install maven.*KAFKA_HOME.*EARLYBELL_KAFKA_BOOTSTRAP"):
        jars.jars(silent)


def test_a_download_that_fails(programs: Path) -> None:
    program(programs / "mvn", "#!/bin/sh\necho '[ERROR] Unknown host repo.maven.apache.org'\nexit 1\n")
    with pytest.raises(StackError, match=r"could not fetch Kafka .*Unknown host.*check the network"):
        jars.jars(silent)
    assert [path.name for path in cached().parent.iterdir()] == [f"{cached().name}.lock"]


def test_a_download_without_the_broker_is_none(programs: Path) -> None:
    program(programs / "mvn", "#!/bin/sh\nexit 0\n")
    with pytest.raises(StackError, match="could not fetch Kafka"):
        jars.jars(silent)
    assert not cached().exists()


def test_an_interrupted_download_is_not_taken_for_a_whole_one(programs: Path) -> None:
    program(programs / "mvn", MAVEN.format(between="exec sleep 60"))
    interrupted = subprocess.Popen([sys.executable, "-c", FETCH], start_new_session=True)
    partial: list[Path] = []
    while not partial:
        assert interrupted.poll() is None
        time.sleep(0.02)
        partial = list(cached().parent.glob("*.partial-*/a.jar"))
    os.killpg(interrupted.pid, signal.SIGKILL)
    interrupted.wait()
    assert not cached().exists()

    program(programs / "mvn", MAVEN.format(between=""))
    assert jars.jars(silent) == cached()
    assert sorted(path.name for path in cached().iterdir()) == ["a.jar", "kafka_2.13-4.3.0.jar"]
    assert not list(cached().parent.glob("*.partial-*"))


def test_two_at_once_fetch_once(programs: Path, tmp_path: Path) -> None:
    program(programs / "mvn", MAVEN.format(between="sleep 1"))

    def command() -> str:
        return subprocess.run([sys.executable, "-c", FETCH], check=True, capture_output=True, text=True).stdout

    with ThreadPoolExecutor(2) as pool:
        said = {pool.submit(command), pool.submit(command)}
    assert {future.result() for future in said} == {f"{cached()}\n"}
    assert (tmp_path / "runs").read_text() == "run\n"
