"""The image and the compose file, as far as they can be checked without a container engine.

deploy/README.md lists what could not be run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from earlybell.deploy.local import jars, kafka
from earlybell.streams.settings import Settings

DIRECTORY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())["services"]
    return services


def test_ports_are_published_on_the_loopback_interface_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_setting_in_the_compose_file_exists(services: dict[str, dict[str, Any]]) -> None:
    variables = {
        name for service in services.values() for name in service["environment"] if name.startswith("EARLYBELL_")
    }
    assert variables
    assert variables <= {f"EARLYBELL_{name.upper()}" for name in Settings.model_fields}


def test_each_role_waits_for_its_dependencies(services: dict[str, dict[str, Any]]) -> None:
    assert services["scoring"]["command"] == ["run", "--role", "scoring"]
    assert services["storing"]["command"] == ["run", "--role", "storing"]
    assert services["schema"]["command"] == ["db", "upgrade"]
    assert services["storing"]["depends_on"]["schema"]["condition"] == "service_completed_successfully"
    for role in ("scoring", "storing"):
        assert services[role]["depends_on"]["kafka"]["condition"] == "service_healthy"
        assert services[role]["healthcheck"]["test"] == ["CMD", "python", "-m", "earlybell.streams.health", role]


def test_the_broker_is_configured_like_the_local_one(services: dict[str, dict[str, Any]]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{jars.VERSION}"
    environment = services["kafka"]["environment"]
    for setting in ("message.max.bytes", "num.partitions", "log.message.timestamp.type"):
        assert environment[f"KAFKA_{setting.upper().replace('.', '_')}"] == kafka.SETTINGS[setting]


def test_the_image_contains_what_the_wheel_contains() -> None:
    image = (DIRECTORY / "Dockerfile").read_text()
    package = DIRECTORY.parent / "earlybell"
    copied = ["earlybell", *(entry.name for entry in package.iterdir() if entry.is_symlink())]
    assert len(copied) > 1
    build_context = (DIRECTORY / "Dockerfile.dockerignore").read_text().splitlines()
    for directory in copied:
        assert f"COPY {directory} {directory}\n" in image
        assert f"!{directory}" in build_context
    assert re.search(r"^USER [1-9]", image, re.MULTILINE), "the image must not run as root"
    assert 'ENTRYPOINT ["earlybell"]' in image
