"""Where Kafka's jars come from, and what the user reads when they cannot be downloaded.

A small repository on this machine stands in for Maven Central. The pinned jars are used by every test that takes
`kafka_bootstrap`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest

from earlybell.deploy.local import jars, maven
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.waiting import GivenUp, Patience
from tests.deploy.repository import Fault, Repository, serving
from tests.patience import PATIENCE_S

#: Prints the directory of the jars; the only argument is the list of pins.
FETCH = """
import sys
from pathlib import Path
from earlybell.deploy.local import jars
from earlybell.deploy.local.waiting import Patience
jars.PINNED = Path(sys.argv[1])
print(jars.directory(lambda line: None, Patience(60)))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A repository of three jars, which are the pinned ones, and an empty cache."""
    with serving() as repository:
        repository.write_pins(tmp_path / "pins.txt")
        monkeypatch.setattr(jars, "PINNED", tmp_path / "pins.txt")
        monkeypatch.setattr(maven, "PAUSE_SECONDS", 0.01)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("MVNW_REPOURL", repository.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("KAFKA_HOME", "MVNW_USERNAME", "MVNW_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
        yield repository


def cached() -> Path:
    return platformdirs.user_cache_path("earlybell") / f"kafka-{jars.VERSION}"


def find(progress: list[str] | None = None) -> Path:
    return jars.directory((progress if progress is not None else []).append, Patience(60))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_pinned_jars_are_those_of_the_broker() -> None:
    artifacts = jars.pinned()
    assert len({artifact.file_name for artifact in artifacts}) == len(artifacts) == 46
    assert f"org.apache.kafka:kafka_2.13:{jars.VERSION}" in {artifact.coordinate for artifact in artifacts}
    assert all(re.fullmatch(r"[0-9a-f]{64}", artifact.sha256) for artifact in artifacts)


def test_kafka_home(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    with pytest.raises(StackError, match="KAFKA_HOME is"):
        find()
    (tmp_path / "kafka" / "libs").mkdir(parents=True)
    (tmp_path / "kafka" / "libs" / "kafka_2.13-4.1.0.jar").touch()
    assert find() == tmp_path / "kafka" / "libs"
    assert not cached().exists()
    assert repository.requests == []


def test_jars_are_downloaded_once(repository: Repository) -> None:
    progress: list[str] = []
    assert find(progress) == cached()
    assert names_in(cached()) == repository.file_names
    assert progress == [f"downloading Kafka {jars.VERSION} (44 MB, once)"]
    assert len(repository.requests) == 3
    assert find(progress) == cached()
    assert len(progress) == 1
    assert len(repository.requests) == 3


@pytest.mark.parametrize("damage", ["a jar is missing", "a jar is changed", "a jar was added", "all jars are missing"])
def test_a_damaged_cache_is_downloaded_again(repository: Repository, damage: str) -> None:
    find()
    jar = cached() / repository.file_names[0]
    match damage:
        case "a jar is missing":
            jar.unlink()
        case "a jar is changed":
            jar.write_bytes(jar.read_bytes()[:-1])
        case "a jar was added":
            (cached() / "kafka_2.13-0.9.jar").touch()
        case "all jars are missing":
            for name in repository.file_names:
                (cached() / name).unlink()
    progress: list[str] = []
    assert find(progress) == cached()
    assert len(progress) == 1 and progress[0].startswith("the cached jars are damaged: ")
    assert names_in(cached()) == repository.file_names
    assert jars.complete(cached(), jars.pinned())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", r"org\.example:clients:1\.0 from 127\.0\.0\.1: 404 Not Found"),
        ("wrong", r"org\.example:clients:1\.0 from 127\.0\.0\.1 has the SHA-256 \w{64}, not the pinned \w{64}"),
        ("cut off", r"org\.example:clients:1\.0 from 127\.0\.0\.1: IncompleteRead"),
        ("unavailable", r"org\.example:clients:1\.0 from 127\.0\.0\.1: 503 Service Unavailable"),
    ],
)
def test_a_download_that_fails_says_why_in_one_line(repository: Repository, fault: Fault, reason: str) -> None:
    repository.faults["clients-1.0.jar"] = (fault, 100)
    with pytest.raises(
        StackError, match=f"Cannot download Kafka .*{reason}.*check the network, or set KAFKA_HOME"
    ) as error:
        find()
    assert "\n" not in str(error.value)
    assert names_in(cached().parent) == [f"{cached().name}.lock"]


@pytest.mark.parametrize("fault", ["cut off", "unavailable"])
def test_a_fault_that_passes_is_tried_again(repository: Repository, fault: Fault) -> None:
    repository.faults["clients-1.0.jar"] = (fault, maven.ATTEMPTS - 1)
    assert names_in(find()) == repository.file_names
    assert len(repository.requests) == 3 + maven.ATTEMPTS - 1


def test_no_network(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVNW_REPOURL", "http://me:secret@127.0.0.1:1/maven2")
    with pytest.raises(StackError, match=r"from 127\.0\.0\.1: .*Connection refused.*check the network") as error:
        find()
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_missing_extra_is_said_in_one_line(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maven_artifact", None)  # as if it were not installed
    with pytest.raises(StackError, match=r"package maven_artifact: run `pip install 'earlybell\[local\]'`"):
        find()


def test_a_cancelled_download_ends_soon(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maven, "TIMEOUT_SECONDS", 1.0)
    repository.faults["clients-1.0.jar"] = ("stalled", 1)
    patience = Patience(60)
    with ThreadPoolExecutor(1) as pool:
        download = pool.submit(jars.directory, lambda _: None, patience)
        while len(repository.requests) < 3:
            time.sleep(0.01)
        patience.give_up()
        with pytest.raises(GivenUp):
            download.result(PATIENCE_S)
    assert names_in(cached().parent) == [f"{cached().name}.lock"]


def test_a_download_that_takes_too_long(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "FETCH_SECONDS", 0)
    with pytest.raises(StackError, match="not finished after 0 s"):
        find()


def test_a_killed_download_is_not_taken_for_a_complete_one(repository: Repository) -> None:
    repository.faults["clients-1.0.jar"] = ("stalled", 1)
    process = subprocess.Popen([sys.executable, "-c", FETCH, jars.PINNED], start_new_session=True)
    partial: list[Path] = []
    while len(partial) < 3:
        assert process.poll() is None
        time.sleep(0.02)
        partial = list(cached().parent.glob("*.partial-*/*.jar"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not cached().exists()

    assert find() == cached()
    assert names_in(cached()) == repository.file_names
    assert not list(cached().parent.glob("*.partial-*"))


def test_two_at_once_download_once(repository: Repository) -> None:
    def command() -> str:
        return subprocess.run(
            [sys.executable, "-c", FETCH, jars.PINNED], check=True, capture_output=True, text=True
        ).stdout

    with ThreadPoolExecutor(2) as pool:
        outputs = [pool.submit(command), pool.submit(command)]
    assert {future.result() for future in outputs} == {f"{cached()}\n"}
    assert len(repository.requests) == 3
