"""The image and the compose file, as far as they can be checked without a container engine.

That Docker builds and runs them is not tested here: deploy/README.md says what could not be run.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaConsumer

from earlybell.deploy.local import jars, kafka
from earlybell.streams import health
from earlybell.streams.settings import Settings

DIRECTORY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((DIRECTORY / "compose.yaml").read_text())["services"]
    return found


def test_everything_published_is_published_on_the_loopback_interface(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_setting_in_the_compose_file_is_one(services: dict[str, dict[str, Any]]) -> None:
    given = {name for service in services.values() for name in service["environment"] if name.startswith("EARLYBELL_")}
    assert given
    assert given <= {f"EARLYBELL_{name.upper()}" for name in Settings.model_fields}


def test_both_roles_run_and_wait_for_what_they_need(services: dict[str, dict[str, Any]]) -> None:
    assert services["scoring"]["command"] == ["run", "--role", "scoring"]
    assert services["storing"]["command"] == ["run", "--role", "storing"]
    assert services["schema"]["command"] == ["db", "upgrade"]
    assert services["storing"]["depends_on"]["schema"]["condition"] == "service_completed_successfully"
    for role in ("scoring", "storing"):
        assert services[role]["depends_on"]["kafka"]["condition"] == "service_healthy"
        assert services[role]["healthcheck"]["test"] == ["CMD", "python", "-m", "earlybell.streams.health", role]


def test_the_broker_is_the_same_as_the_local_one(services: dict[str, dict[str, Any]]) -> None:
    assert services["kafka"]["image"] == f"apache/kafka:{jars.VERSION}"
    environment = services["kafka"]["environment"]
    for setting in ("message.max.bytes", "num.partitions", "log.message.timestamp.type"):
        assert environment[f"KAFKA_{setting.upper().replace('.', '_')}"] == kafka.SETTINGS[setting]
    assert f"<version>{jars.VERSION}</version>" in (DIRECTORY / "local" / "kafka-pom.xml").read_text()


def test_the_image_is_made_of_what_the_wheel_is_made_of() -> None:
    image = (DIRECTORY / "Dockerfile").read_text()
    package = DIRECTORY.parent / "earlybell"
    copied = ["earlybell", *(entry.name for entry in package.iterdir() if entry.is_symlink())]
    assert len(copied) > 1
    sent = (DIRECTORY / "Dockerfile.dockerignore").read_text().splitlines()
    for directory in copied:
        assert f"COPY {directory} {directory}\n" in image
        assert f"!{directory}" in sent
    assert re.search(r"^USER [1-9]", image, re.MULTILINE), "the image must not run as root"
    assert 'ENTRYPOINT ["earlybell"]' in image


def test_health_is_a_place_in_the_consumer_group(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = Settings(kafka_bootstrap=kafka_bootstrap, group_prefix=topic_prefix)
    assert not health.working(settings, "scoring")
    group = f"{topic_prefix}-scoring"
    with closing(KafkaConsumer(f"{topic_prefix}news", bootstrap_servers=kafka_bootstrap, group_id=group)) as consumer:
        while not consumer.assignment():
            consumer.poll(200)
        assert health.working(settings, "scoring")
        assert health.working(settings, "scoring", {"127.0.0.1"})
        assert not health.working(settings, "scoring", {"192.0.2.1"})
        assert not health.working(settings, "storing")
    assert not health.working(settings, "scoring")


def test_no_broker_is_not_healthy() -> None:
    assert not health.working(Settings(kafka_bootstrap="127.0.0.1:1"), "scoring")
