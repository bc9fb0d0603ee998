"""A separate disk for a database, in memory, which can be filled."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2

from earlybell.database_url import DatabaseUrl
from earlybell.deploy.local import postgres

TABLESPACE = "small"


class NoDisk(Exception):
    """No file system can be mounted on this machine."""


class Disk:
    """A mounted file system in memory, with a limit on its size.

    Attributes
    ----------
    path
        Where it is mounted.
    """

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._megabytes = megabytes

    def fill(self) -> None:
        """Leave no free space."""
        for attempt in range(10):
            status = os.statvfs(self.path)
            try:
                # A size below what is in use is refused, and that may have grown since.
                _run("mount", "-o", f"remount,size={(status.f_blocks - status.f_bfree) * status.f_frsize}", self.path)
                return
            except subprocess.CalledProcessError:
                if attempt == 9:
                    raise
                time.sleep(0.05)

    def clear(self) -> None:
        """Restore the original size."""
        _run("mount", "-o", f"remount,size={self._megabytes}m", self.path)

    def hold_the_tables_of(self, url: str) -> None:
        """Put new tables and indexes of this database on it."""
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(f"CREATE TABLESPACE {TABLESPACE} LOCATION %s", (str(self.path),))
            database = DatabaseUrl.parse(url).parameters["dbname"]
            cursor.execute(f'ALTER DATABASE "{database}" SET default_tablespace = {TABLESPACE}')


@contextmanager
def disk(megabytes: int) -> Iterator[Disk]:
    """Mount a disk for the user as whom Postgres runs, and unmount it afterwards.

    Raises
    ------
    NoDisk
        The mount is not permitted.
    """
    path = Path(tempfile.mkdtemp(prefix="earlybell-disk-"))
    user = postgres._unprivileged() or os.geteuid()
    try:
        try:
            options = f"size={megabytes}m,mode=700,uid={user},gid={user}"
            _run("mount", "-t", "tmpfs", "-o", options, "earlybell", path)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NoDisk(f"no file system can be mounted here: {error}") from error
        try:
            yield Disk(path, megabytes)
        finally:
            _run("umount", "--lazy", path)
    finally:
        with suppress(OSError):
            path.rmdir()


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
