"""Three brokers on this machine, each a controller too: what a single one cannot show is how its leaders change."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from earlybell.deploy.local import jars, java, kafka, processes
from earlybell.deploy.local.waiting import Patience
from tests.patience import PATIENCE_S

BROKERS = 3
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
#: Every topic has a copy on each broker, and a message is acknowledged when two have it.
_SETTINGS = {
    **kafka.SETTINGS,
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A broker that was killed loses its partitions after this time, not after 9 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


@dataclass(frozen=True)
class OwnCluster:
    """Three brokers, by their numbers from 0.

    Attributes
    ----------
    ports
        Where clients reach each broker.
    """

    directories: Sequence[Path]
    ports: Sequence[int]
    command: Sequence[str]
    pids: dict[int, int] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        """``host:port`` of each broker."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self, *brokers: int) -> None:
        """Start these brokers on their data, and wait until each answers."""
        for broker in brokers:
            command = [*self.command, "kafka.Kafka", self._properties(broker)]
            self.pids[broker] = processes.spawn(command, log=self.directories[broker] / "log")
        for broker in brokers:
            self._answers(broker)

    def start_missing(self) -> None:
        """Start the brokers that do not run."""
        self.start(*(broker for broker in range(BROKERS) if not self._running(broker)))

    def end(self, number: signal.Signals, *brokers: int) -> None:
        """Send a signal to these brokers, and wait until they are gone."""
        for broker in brokers:
            processes.signal_process(self.pids[broker], self._properties(broker), number)
        for broker in brokers:
            assert processes.ended(self.pids[broker], self._properties(broker), PATIENCE_S)

    def _answers(self, broker: int) -> None:
        address = f"127.0.0.1:{self.ports[broker]}"
        answered = Patience(PATIENCE_S).until(lambda: kafka.healthy(address), while_=lambda: self._running(broker))
        assert answered, processes.last_lines(self.directories[broker] / "log", 0, 20)

    def _running(self, broker: int) -> bool:
        return processes.is_running(self.pids[broker], self._properties(broker))

    def _properties(self, broker: int) -> str:
        return str(self.directories[broker] / "server.properties")


@contextmanager
def own_cluster() -> Iterator[OwnCluster]:
    """Start the brokers, and kill them afterwards."""
    libraries = jars.directory(_ignore, Patience(PATIENCE_S))
    java_command = [str(java.find(_ignore)), "-Xms96m", "-Xmx320m", *_JAVA_OPTIONS, "-cp", str(libraries / "*")]
    taken: list[int] = []
    for _ in range(2 * BROKERS):
        taken.append(processes.free_port(taken=taken))
    ports, controllers = taken[:BROKERS], taken[BROKERS:]
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
    with tempfile.TemporaryDirectory(prefix="earlybell-cluster-") as home:
        directories = [Path(home) / str(broker) for broker in range(BROKERS)]
        for broker, directory in enumerate(directories):
            directory.mkdir()
            listeners = f"CLIENT://127.0.0.1:{ports[broker]},CONTROLLER://127.0.0.1:{controllers[broker]}"
            settings = _SETTINGS | {
                "node.id": str(broker),
                "listeners": listeners,
                "advertised.listeners": listeners,
                "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers)),
                "log.dirs": str(directory / "data"),
            }
            properties = directory / "server.properties"
            properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
            formatting = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)]
            subprocess.run([*java_command, *formatting], check=True, capture_output=True, timeout=PATIENCE_S)
        cluster = OwnCluster(directories, ports, java_command)
        try:
            cluster.start(*range(BROKERS))
            yield cluster
        finally:
            cluster.end(signal.SIGKILL, *cluster.pids)


def _ignore(_: object) -> None:
    return None
