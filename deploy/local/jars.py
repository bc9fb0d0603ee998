"""Finds a Java and the jars of a Kafka broker: ``KAFKA_HOME``, else by Maven coordinates into a cache of the user's.

Knows nothing of how a broker is configured or run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from earlybell.deploy.local import state
from earlybell.deploy.local.exceptions import StackError

VERSION = "4.3.0"
#: The oldest Java that a Kafka 4 broker runs on.
JAVA = 17
#: Copying 44 MB takes seconds; a mirror that stalls must not hold us for ever.
FETCH_SECONDS = 900

_POM = Path(__file__).with_name("kafka-pom.xml")
_ELSE = "or set KAFKA_HOME to an unpacked Kafka 4, or EARLYBELL_KAFKA_BOOTSTRAP to a broker that runs"


def java() -> Path:
    """The `java` command: of ``JAVA_HOME`` if that is set, else on the ``PATH``.

    Raises
    ------
    StackError
        There is none, it does not run, or it is too old.
    """
    packages = "Debian, Ubuntu: `apt install openjdk-17-jre-headless`; macOS: `brew install openjdk`"
    install = f"install Java {JAVA} or newer ({packages})"
    java_home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(java_home) / "bin")) if java_home else None
    found = found or shutil.which("java")
    if found is None:
        raise StackError(f"No Java found, and Kafka runs on it: {install}, or set EARLYBELL_KAFKA_BOOTSTRAP")
    try:
        said = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(f"{found} does not run: {install}") from error
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None:
        raise StackError(f"{found} does not say its version: {install}")
    if int(version[1]) < JAVA:
        raise StackError(f"{found} is Java {version[1]}, too old for Kafka 4: {install}, or point JAVA_HOME at it")
    return Path(found)


def jars(progress: Callable[[str], None]) -> Path:
    """The directory of the broker's jars. Fetches them (44 MB) the first time.

    Raises
    ------
    StackError
        ``KAFKA_HOME`` is none, there is no Maven, or it could not fetch them.
    """
    kafka_home = os.environ.get("KAFKA_HOME")
    if kafka_home:
        libraries = Path(kafka_home) / "libs"
        if not any(libraries.glob("kafka_*.jar")):
            raise StackError(
                f"KAFKA_HOME is {kafka_home}, and there are no Kafka jars in its libs/: correct or unset it"
            )
        return libraries
    cache = platformdirs.user_cache_path("earlybell")
    found = cache / f"kafka-{VERSION}"
    if found.is_dir():
        return found
    try:
        # Two processes at once: the second waits here, and then finds what the first has fetched.
        with state.locked(cache / f"kafka-{VERSION}.lock"):
            if not found.is_dir():
                fetch(found, progress)
    except OSError as error:
        raise StackError(
            f"Cannot keep Kafka's jars in {cache} ({error.strerror}): make it writable, {_ELSE}"
        ) from error
    return found


def fetch(target: Path, progress: Callable[[str], None]) -> None:
    """Have Maven copy the jars next to `target`, and move them there when all have arrived.

    An interrupted download leaves a directory of another name, never a `target` that lacks some.
    """
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            "No Maven (`mvn`) found, which fetches Kafka: install it"
            f" (Debian, Ubuntu: `apt install maven`; macOS: `brew install maven`), {_ELSE}"
        )
    progress(f"fetching Kafka {VERSION} (44 MB, once)")
    for left in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    try:
        command = [maven, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(_POM)]
        command += ["dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
        if ran.returncode != 0 or not (partial / f"kafka_2.13-{VERSION}.jar").exists():
            raise StackError(f"Maven could not fetch Kafka {VERSION} ({_reason(ran)}): check the network, {_ELSE}")
        partial.chmod(0o755)
        partial.rename(target)
    except subprocess.TimeoutExpired as error:
        raise StackError(f"Maven has not fetched Kafka in {FETCH_SECONDS} s: check the network, {_ELSE}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reason(ran: subprocess.CompletedProcess[str]) -> str:
    errors = [line.removeprefix("[ERROR]").strip() for line in ran.stdout.splitlines() if line.startswith("[ERROR]")]
    return (errors or [line for line in ran.stderr.splitlines() if line.strip()] or [f"exit code {ran.returncode}"])[0]
