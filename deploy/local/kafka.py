"""A real Apache Kafka for one machine: a single KRaft node on the loopback interface.

Knows where the broker's files are, how to configure and start it and how to check its health; not who uses it.
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

from earlybell.deploy.local import jars, java, processes
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience
from earlybell.masking import masked

#: The largest message that the broker accepts. A topic may lower it (the news topic has 1 MiB), so that a dead letter
#: still fits with its headers.
MESSAGE_BYTES = 4 * 1_048_576
#: For a laptop, and for a few minutes: little memory, and without C2, Java's optimising compiler, which would use more
#: CPU in the first minutes than the broker itself. For a broker that runs for longer, KAFKA_HEAP_OPTS and
#: KAFKA_JVM_PERFORMANCE_OPTS replace these options, as in Kafka's own scripts.
_HEAP = "-Xms128m -Xmx512m"
_PERFORMANCE = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
#: Another process may take a port after we found it free and before the broker listens on it.
ATTEMPTS = 3

# The pinned jars log through slf4j-simple, a distribution in KAFKA_HOME through log4j2. Both write to our log file.
_LOGGING = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dlog4j2.level=WARN")

#: The broker's properties, except its addresses and directories.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    # A single node has only one copy of everything.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer partitions for Kafka's internal topics: the first consumer group would wait until all fifty are created.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "2",
    "share.coordinator.state.topic.num.partitions": "2",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "message.max.bytes": str(MESSAGE_BYTES),
    # A topic that a feed's first message creates gets the same settings as the topics that Earlybell creates.
    "num.partitions": "4",
    "log.message.timestamp.type": "LogAppendTime",
    "auto.create.topics.enable": "true",
}


def external() -> str | None:
    """Return the brokers in ``EARLYBELL_KAFKA_BOOTSTRAP``, if it is set: then none is started here."""
    return os.environ.get("EARLYBELL_KAFKA_BOOTSTRAP") or None


def without_password(address: str) -> str:
    """Return the brokers' address; should it contain a password, which Kafka's addresses do not, it is masked."""
    return masked(address)


def mark(home: Path) -> str:
    """Return the argument that identifies the broker of this home."""
    return str(home / "kafka" / "server.properties")


def start(home: Path, started: Callable[[Server], None], patience: Patience, progress: Callable[[str], None]) -> Server:
    """Start a broker on the data under `home`, new or existing, and wait until it answers.

    Parameters
    ----------
    started
        Called as soon as the process exists, before it is known to be healthy.

    Raises
    ------
    StackError
        There is no Java or no jars, or the broker exited or did not answer in time.
    """
    java_command = java.find(progress)
    libraries = jars.directory(progress, patience)
    directory = home / "kafka"
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "kafka.log"
    heap = os.environ.get("KAFKA_HEAP_OPTS", _HEAP).split()
    performance = os.environ.get("KAFKA_JVM_PERFORMANCE_OPTS", _PERFORMANCE).split()
    for _ in range(ATTEMPTS):
        before = _ports(directory).get("CLIENT")
        port = _configure(directory)
        if before not in {None, port}:
            progress(f"port {before} is taken by another program: Kafka listens on {port} from now on")
        _format(directory, java_command, libraries, patience)
        log_start = log.stat().st_size if log.exists() else 0
        pid = processes.spawn(
            [java_command, *heap, *performance, *_LOGGING, "-cp", libraries / "*", "kafka.Kafka", mark(home)],
            log=log,
        )
        server = Server("kafka", f"127.0.0.1:{port}", pid, mark(home), str(log))
        started(server)
        if patience.until(lambda address=server.address: healthy(address), while_=lambda broker=server: broker.running):  # type: ignore[misc]
            return server
        output = processes.last_lines(log, log_start, 40)
        if server.running:
            processes.stop(pid, mark(home))
            raise StackError(f"Kafka did not answer in {patience.seconds:.0f} s: see {log}, then try again")
        if "Address already in use" not in output:
            break
    raise StackError(f"Kafka exited during startup ({_reason(output)}): see {log}")


def healthy(bootstrap: str, seconds: float = 3.0) -> bool:
    """Whether the brokers at `bootstrap` answer a request to describe the cluster."""
    if not any(_listens(address) for address in bootstrap.split(",")):
        return False
    if os.environ.get("EARLYBELL_KAFKA_SECURITY_PROTOCOL", "PLAINTEXT") != "PLAINTEXT":
        # An external broker with TLS or a password: it is enough that it listens.
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


def _ports(directory: Path) -> dict[str, int]:
    """Return the ports of the last start, by the listeners' names."""
    properties = directory / "server.properties"
    previous = properties.read_text() if properties.exists() else ""
    return {name: int(port) for name, port in re.findall(r"(CLIENT|CONTROLLER)://127\.0\.0\.1:(\d+)", previous)}


def _configure(directory: Path) -> int:
    """Write the broker's properties and return its client port. Ports stay the same from one start to the next."""
    properties, ports = directory / "server.properties", _ports(directory)
    port = processes.free_port(ports.get("CLIENT"))
    controller = processes.free_port(ports.get("CONTROLLER"), taken=[port])
    listeners = f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"
    settings = {
        **SETTINGS,
        "listeners": listeners,
        "advertised.listeners": listeners,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "log.dirs": str(directory / "data"),
    }
    # Java reads the file as Latin-1 with backslash escapes; JSON's escapes are the same.
    lines = [f"{name}={json.dumps(value)[1:-1]}" for name, value in settings.items()]
    properties.write_text("\n".join(lines) + "\n")
    return port


def _format(directory: Path, java_command: Path, libraries: Path, patience: Patience) -> None:
    """Format the data directory with a cluster id, unless it exists. It gets its name once it is complete."""
    data, partial = directory / "data", directory / "data.partial"
    if data.exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    # The tool takes the directory to format from the properties, where the last value of a name counts.
    properties = directory / "format.properties"
    properties.write_text(
        (directory / "server.properties").read_text() + f"log.dirs={json.dumps(str(partial))[1:-1]}\n"
    )
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # A cluster id that starts with a dash would be taken for an option.
    cluster = cluster.replace("-", "_")
    command = [str(java_command), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [*_LOGGING, "-cp", str(libraries / "*")]
    command += ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(properties)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=patience.seconds, check=False)
    if result.returncode != 0:
        raise StackError(f"Kafka could not format {data} ({_reason(result.stderr or result.stdout)})")
    partial.rename(data)
    properties.unlink()


def _reason(output: str) -> str:
    """Return the line of `output` that most likely says what went wrong, skipping stack traces."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    errors = [line for line in lines if re.search("Exception|[Ee]rror|Unrecognized", line)]
    return (errors or lines or ["no output"])[0]
