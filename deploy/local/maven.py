"""Downloads artifacts from a Maven repository and verifies them against pinned SHA-256 sums.

Uses the repository that Maven itself would use: ``MVNW_REPOURL`` (with ``MVNW_USERNAME`` and ``MVNW_PASSWORD``), as in
the Maven wrapper, else the mirror of Maven Central in ``~/.m2/settings.xml``, else Maven Central.
Knows nothing of Kafka or of what the artifacts are for.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

#: A download is tried this often before it fails, with a pause that doubles each time.
ATTEMPTS = 3
PAUSE_SECONDS = 0.5
#: For the connection, and for each read from it.
TIMEOUT_SECONDS = 20.0
CHUNK_BYTES = 1 << 16


class DownloadError(Exception):
    """An artifact could not be downloaded, or is not the one that is pinned. The text is a reason, in one line."""


@dataclass(frozen=True)
class Artifact:
    """A jar by its Maven coordinate (``group:name:version``) and its SHA-256 in hexadecimal."""

    coordinate: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The jar's name in a repository, without its directory."""
        _, name, version = self.coordinate.split(":")
        return f"{name}-{version}.jar"


@dataclass(frozen=True)
class Repository:
    """Where artifacts are downloaded from."""

    url: str = field(repr=False)
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The repository's host: what may be shown of a URL that can hold a password."""
        return urlsplit(self.url).hostname or "the repository"


def configured_repository() -> Repository:
    """Return the repository that this user's environment or Maven settings name; Maven Central by default.

    Raises
    ------
    DownloadError
        ``~/.m2/settings.xml`` is not XML.
    """
    if url := os.environ.get("MVNW_REPOURL"):
        return Repository(url.rstrip("/"), os.environ.get("MVNW_USERNAME"), os.environ.get("MVNW_PASSWORD"))
    return _mirror_of_central(Path.home() / ".m2" / "settings.xml") or Repository(maven_central())


def maven_central() -> str:
    """Return the address of Maven Central."""
    from maven_artifact import Downloader

    return str(Downloader().resolver.base)


def download(artifact: Artifact, target: Path, repository: Repository, check: Callable[[], None]) -> None:
    """Download `artifact` to the file `target`, and verify it.

    Parameters
    ----------
    check
        Called between chunks; raises to end the download.

    Raises
    ------
    DownloadError
        The repository does not have the artifact, does not answer, or sends another file.
    """
    import requests

    pause = PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        check()
        try:
            sha256 = _stream(artifact, target, repository, check)
        except requests.RequestException as error:
            refused = error.response is not None and error.response.status_code < 500
            if refused or attempt == ATTEMPTS:
                raise DownloadError(f"{artifact.coordinate} from {repository.host}: {_reason(error)}") from error
            time.sleep(pause)
            pause *= 2
        else:
            if sha256 != artifact.sha256:
                raise DownloadError(
                    f"{artifact.coordinate} from {repository.host} has the SHA-256 {sha256},"
                    f" not the pinned {artifact.sha256}"
                )
            return


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of `file` in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stream(artifact: Artifact, target: Path, repository: Repository, check: Callable[[], None]) -> str:
    """Write what the repository sends for `artifact` to `target`; return its SHA-256."""
    from maven_artifact import Artifact as Coordinate
    from maven_artifact import Requestor

    requestor = Requestor(username=repository.username, password=repository.password)
    url = Coordinate.parse(artifact.coordinate).uri(repository.url)
    digest = hashlib.sha256()
    with requestor.request(url, None, stream=True, timeout=TIMEOUT_SECONDS) as response, target.open("wb") as file:
        for chunk in response.iter_content(CHUNK_BYTES):
            check()
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Return the innermost cause of a failed request: the outer ones repeat it at length."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    cause: BaseException = error
    while inner := (cause.__cause__ or cause.__context__):
        cause = inner
    return " ".join(str(cause).split()) or type(cause).__name__


def _mirror_of_central(settings: Path) -> Repository | None:
    """Return the mirror of Maven Central in Maven's `settings`, with its credentials, or None."""
    if not settings.is_file():
        return None
    try:
        root = ElementTree.parse(settings).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise DownloadError(f"{settings} cannot be read ({error})") from error

    def text(element: ElementTree.Element, name: str) -> str:
        value = (element.findtext(f"{{*}}{name}") or "").strip()
        return re.sub(r"\$\{env\.(\w+)\}", lambda match: os.environ.get(match[1], ""), value)

    for mirror in root.iterfind("{*}mirrors/{*}mirror"):
        if _covers_central(text(mirror, "mirrorOf")):
            identifier = text(mirror, "id")
            for server in root.iterfind("{*}servers/{*}server"):
                password = text(server, "password")
                # Maven writes an encrypted password in braces; only Maven can read it.
                if text(server, "id") == identifier and not password.startswith("{"):
                    return Repository(text(mirror, "url").rstrip("/"), text(server, "username"), password)
            return Repository(text(mirror, "url").rstrip("/"))
    return None


def _covers_central(mirror_of: str) -> bool:
    patterns = [pattern.strip() for pattern in mirror_of.split(",")]
    return "!central" not in patterns and not {"central", "*", "external:*"}.isdisjoint(patterns)
