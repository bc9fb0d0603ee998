"""A real Apache Kafka for one machine: a single KRaft node on the loopback interface, with a data directory of its own.

Knows where its files lie and how a broker is configured, started and asked for its health; not who wants one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

from earlybell.deploy.local import jars, processes
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience

#: What the broker takes by default. Topics lower it (the news topic to 1 MiB); a dead letter and its headers fit.
MESSAGE_BYTES = 4 * 1_048_576
HEAP = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC")
#: Another process may take a port between our looking and the broker's listening.
ATTEMPTS = 3

# The jars by Maven log through slf4j-simple; a distribution in KAFKA_HOME by log4j2. Both write to our log file.
_LOGGING = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dlog4j2.level=WARN")

#: The broker's properties, but for its addresses and directories.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    # One node holds the only copy of everything.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer partitions of Kafka's own topics: the first consumer group need not wait for fifty to be made.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.num.partitions": "2",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "message.max.bytes": str(MESSAGE_BYTES),
    # What a feed's first message creates is as the topics that Earlybell creates.
    "num.partitions": "4",
    "log.message.timestamp.type": "LogAppendTime",
    "auto.create.topics.enable": "true",
}


def external() -> str | None:
    """The brokers of ``EARLYBELL_KAFKA_BOOTSTRAP``, if that is set: then none is started here."""
    return os.environ.get("EARLYBELL_KAFKA_BOOTSTRAP") or None


def mark(home: Path) -> str:
    """The argument by which the broker of this home is recognised."""
    return str(home / "kafka" / "server.properties")


def start(home: Path, started: Callable[[Server], None], patience: Patience, progress: Callable[[str], None]) -> Server:
    """Start a broker on the data under `home`, new or old, and wait until it answers.

    Parameters
    ----------
    started
        Called as soon as there is a process, before it is known to be healthy.

    Raises
    ------
    StackError
        No Java, no jars, or the broker ended or did not answer in time.
    """
    java = jars.java()
    libraries = jars.jars(progress)
    directory = home / "kafka"
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "kafka.log"
    for _ in range(ATTEMPTS):
        port = _configure(directory)
        _format(directory, java, libraries, patience)
        said_before = log.stat().st_size if log.exists() else 0
        pid = processes.spawn(
            [java, *HEAP, *_LOGGING, "-cp", libraries / "*", "kafka.Kafka", mark(home)],
            log=log,
        )
        server = Server("kafka", f"127.0.0.1:{port}", pid, mark(home), str(log))
        started(server)
        if patience.until(lambda at=server.address: healthy(at), while_=lambda it=server: it.running):  # type: ignore[misc]
            return server
        said = processes.last_lines(log, said_before, 40)
        if server.running:
            processes.stop(pid, mark(home))
            raise StackError(f"Kafka did not answer in {patience.seconds:.0f} s: see {log}, then try again")
        if "Address already in use" not in said:
            break
    raise StackError(f"Kafka ended as it started ({_reason(said)}): see {log}")


def healthy(bootstrap: str, seconds: float = 3.0) -> bool:
    """Whether the brokers at `bootstrap` answer a client's request for the cluster's description."""
    if not any(_listens(address) for address in bootstrap.split(",")):
        return False
    if os.environ.get("EARLYBELL_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT") != "PLAINTEXT":
        # An external broker that wants TLS or a password: that it listens is all that is asked here.
        return True
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    milliseconds = int(seconds * 1000)
    try:
        client = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","),
            request_timeout_ms=milliseconds,
            bootstrap_timeout_ms=milliseconds,
        )
        try:
            return bool(client.describe_cluster()["brokers"])
        finally:
            client.close()
    except (KafkaError, OSError, ValueError):
        return False


def _listens(address: str) -> bool:
    host, _, port = address.strip().rpartition(":")
    return port.isdigit() and processes.accepts_connections(host.strip("[]"), int(port))


def _configure(directory: Path) -> int:
    """Write the broker's properties; gives its client port. It keeps its ports from one start to the next."""
    properties = directory / "server.properties"
    before = properties.read_text() if properties.exists() else ""
    known = {name: int(port) for name, port in re.findall(r"(CLIENT|CONTROLLER)://127\.0\.0\.1:(\d+)", before)}
    port = processes.free_port(known.get("CLIENT"))
    controller = processes.free_port(known.get("CONTROLLER"), taken=[port])
    listeners = f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"
    settings = {
        **SETTINGS,
        "listeners": listeners,
        "advertised.listeners": listeners,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "log.dirs": str(directory / "data"),
    }
    # Java reads the file as Latin-1, in which a backslash begins an escape; those of JSON are the same.
    lines = [f"{name}={json.dumps(value)[1:-1]}" for name, value in settings.items()]
    properties.write_text("\n".join(lines) + "\n")
    return port


def _format(directory: Path, java: Path, libraries: Path, patience: Patience) -> None:
    """Give the data directory its cluster id, unless it has one. It appears under its name when it is whole."""
    data, partial = directory / "data", directory / "data.partial"
    if data.exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    # The tool reads the directory to format from the properties, of which the last of a name holds.
    properties = directory / "format.properties"
    properties.write_text(
        (directory / "server.properties").read_text() + f"log.dirs={json.dumps(str(partial))[1:-1]}\n"
    )
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # A cluster id that begins with a dash would be read as an option.
    cluster = cluster.replace("-", "_")
    command = [str(java), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [*_LOGGING, "-cp", str(libraries / "*")]
    command += ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(properties)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=patience.seconds, check=False)
    if ran.returncode != 0:
        raise StackError(f"Kafka could not prepare {data} ({_reason(ran.stderr or ran.stdout)})")
    partial.rename(data)
    properties.unlink()


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    telling = [line for line in lines if "Exception" in line or "rror" in line]
    return (telling or lines or ["it said nothing"])[0]
