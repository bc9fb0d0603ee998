"""Finds the jars of a Kafka broker: in ``KAFKA_HOME``, else in a cache that it fills from a Maven repository.

Knows nothing of how a broker is configured or run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import platformdirs

from earlybell.deploy.local import maven, state
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.maven import Artifact, DownloadError
from earlybell.deploy.local.waiting import GivenUp, Patience

VERSION = "4.3.0"
#: The broker and everything it depends on: a Maven coordinate and a SHA-256 per line.
PINNED = Path(__file__).with_name("kafka-jars.txt")
#: 44 MB arrive within seconds; a slow mirror must not hold `earlybell up` for ever.
FETCH_SECONDS = 900
CONNECTIONS = 8

_ALTERNATIVES = "or set KAFKA_HOME to an unpacked Kafka 4, or EARLYBELL_KAFKA_BOOTSTRAP to a running broker"


def directory(progress: Callable[[str], None], patience: Patience) -> Path:
    """Return the directory of the broker's jars; download them (44 MB) if they are not in the cache.

    Raises
    ------
    StackError
        ``KAFKA_HOME`` has no Kafka in it, the cache cannot be written, or a jar cannot be downloaded or is not the
        pinned one.
    """
    kafka_home = os.environ.get("KAFKA_HOME")
    if kafka_home:
        libraries = Path(kafka_home) / "libs"
        if not any(libraries.glob("kafka_*.jar")):
            raise StackError(f"KAFKA_HOME is {kafka_home}, but its libs/ has no Kafka jars: correct or unset it")
        return libraries
    cache = platformdirs.user_cache_path("earlybell")
    cached = cache / f"kafka-{VERSION}"
    artifacts = pinned()
    try:
        if complete(cached, artifacts):
            return cached
        # Of two processes at once, the second waits for the lock and then finds what the first has downloaded.
        with state.locked(cache / f"kafka-{VERSION}.lock"):
            if not complete(cached, artifacts):
                fetch(artifacts, cached, progress, patience)
    except OSError as error:
        raise StackError(
            f"Cannot keep Kafka's jars in {cache} ({error.strerror}): make it writable, {_ALTERNATIVES}"
        ) from error
    return cached


def pinned() -> list[Artifact]:
    """Return the artifacts listed in `PINNED`."""
    lines = [line.partition("#")[0].split() for line in PINNED.read_text().splitlines()]
    return [Artifact(*fields) for fields in lines if fields]


def complete(cached: Path, artifacts: Iterable[Artifact]) -> bool:
    """Whether `cached` holds the jars of `artifacts`, unchanged, and no others. Hashing them takes about 50 ms."""
    sums = {artifact.file_name: artifact.sha256 for artifact in artifacts}
    jars = list(cached.glob("*.jar"))
    return {jar.name for jar in jars} == set(sums) and all(maven.sha256_of(jar) == sums[jar.name] for jar in jars)


def fetch(artifacts: list[Artifact], target: Path, progress: Callable[[str], None], patience: Patience) -> None:
    """Download `artifacts` into a directory next to `target`, and rename it when all are there and verified.

    An interrupted download leaves a directory of another name, never a `target` that lacks some.
    """
    damaged = "the cached jars are damaged: " if target.exists() else ""
    progress(f"{damaged}downloading Kafka {VERSION} (44 MB, once)")
    for abandoned in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    try:
        _download_all(artifacts, temporary, patience)
        temporary.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except DownloadError as error:
        raise StackError(f"Cannot download Kafka {VERSION} ({error}): check the network, {_ALTERNATIVES}") from error
    except ImportError as error:
        raise StackError(
            f"Downloading Kafka needs the package {error.name}: run `pip install 'earlybell[local]'`, {_ALTERNATIVES}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download_all(artifacts: list[Artifact], temporary: Path, patience: Patience) -> None:
    """Download over several connections; the first failure ends them all."""
    repository = maven.configured_repository()
    deadline = time.monotonic() + FETCH_SECONDS
    failed = threading.Event()

    def check() -> None:
        patience.check()
        if failed.is_set():
            raise GivenUp("Another download failed")
        if time.monotonic() > deadline:
            raise DownloadError(f"not finished after {FETCH_SECONDS} s")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        download = partial(maven.download, repository=repository, check=check)
        downloads = [pool.submit(download, artifact, temporary / artifact.file_name) for artifact in artifacts]
        try:
            for finished in as_completed(downloads):
                finished.result()
        except BaseException:
            failed.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
