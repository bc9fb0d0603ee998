"""Which Maven repository is used: the one that Maven itself would use."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from earlybell.deploy.local import maven
from earlybell.deploy.local.maven import Artifact, DownloadError, configured_repository, maven_central
from tests.deploy.repository import serving

SETTINGS = """<?xml version="1.0" encoding="UTF-8"?>
<settings xmlns="http://maven.apache.org/SETTINGS/1.2.0">
  <servers>
    <server><id>other</id><username>them</username><password>theirs</password></server>
    <server><id>company</id><username>me</username><password>{password}</password></server>
  </servers>
  <mirrors>
    <mirror><id>snapshots</id><mirrorOf>snapshots</mirrorOf><url>https://maven.example/snapshots</url></mirror>
    <mirror><id>company</id><mirrorOf>{mirror_of}</mirrorOf><url>https://maven.example/central/</url></mirror>
  </mirrors>
</settings>
"""


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's Maven settings, which are not there yet."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MVNW_REPOURL", "MVNW_USERNAME", "MVNW_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".m2").mkdir()
    return tmp_path / ".m2" / "settings.xml"


def write(settings: Path, mirror_of: str = "central", password: str = "secret") -> None:
    settings.write_text(SETTINGS.format(mirror_of=mirror_of, password=password))


def test_maven_central_by_default(settings: Path) -> None:
    assert configured_repository().url == maven_central()
    settings.write_text("<settings/>")
    assert configured_repository().url == maven_central()


@pytest.mark.parametrize("mirror_of", ["central", "*", "external:*", "snapshots, central", "*,!snapshots"])
def test_a_mirror_of_central_with_its_credentials(settings: Path, mirror_of: str) -> None:
    write(settings, mirror_of)
    repository = configured_repository()
    assert repository.url == "https://maven.example/central"
    assert (repository.username, repository.password) == ("me", "secret")
    assert "secret" not in repr(repository)


@pytest.mark.parametrize("mirror_of", ["releases", "*,!central", "external:http:*"])
def test_a_mirror_of_something_else(settings: Path, mirror_of: str) -> None:
    write(settings, mirror_of)
    assert configured_repository().url == maven_central()


def test_credentials_from_the_environment(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_PASSWORD", "from the environment")
    write(settings, password="${env.NEXUS_PASSWORD}")
    assert configured_repository().password == "from the environment"


def test_an_encrypted_password_is_not_used(settings: Path) -> None:
    write(settings, password="{COQLCE6DU6GtcS5P=}")
    repository = configured_repository()
    assert (repository.url, repository.password) == ("https://maven.example/central", None)


def test_the_environment_precedes_the_settings(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(settings)
    monkeypatch.setenv("MVNW_REPOURL", "https://other.example/maven/")
    assert configured_repository().url == "https://other.example/maven"


def test_settings_that_are_not_xml(settings: Path) -> None:
    settings.write_text("<settings>")
    with pytest.raises(DownloadError, match=r"settings\.xml cannot be read"):
        configured_repository()


def test_credentials_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as repository:
        repository.write_pins(tmp_path / "pins.txt")
        coordinate, sha256 = (tmp_path / "pins.txt").read_text().splitlines()[1].split()
        source = maven.Repository(repository.url, "me", "secret")
        maven.download(Artifact(coordinate, sha256), tmp_path / "jar", source, lambda: None)
    assert maven.sha256_of(tmp_path / "jar") == sha256
    assert repository.authorizations == {"Basic " + base64.b64encode(b"me:secret").decode()}
