"""Started by root, Postgres runs as another user, and only directories of root's own are opened for that user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from earlybell.deploy.local import postgres
from earlybell.deploy.local.exceptions import StackError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
SOMEBODY = 12_345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_our_own_directories_become_traversable_and_not_readable(tmp_path: Path) -> None:
    data = tmp_path / "home" / "postgres"
    data.mkdir(parents=True)
    data.parent.chmod(0o700)
    postgres._make_traversable(data, postgres.server_programs())
    assert mode(data.parent) == 0o701


def test_another_users_directory_is_left_as_it_is(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    data = theirs / "home" / "postgres"
    data.mkdir(parents=True)
    theirs.chmod(0o700)
    os.chown(theirs, SOMEBODY, SOMEBODY)
    with pytest.raises(StackError, match=r"theirs .*EARLYBELL_HOME"):
        postgres._make_traversable(data, postgres.server_programs())
    assert mode(theirs) == 0o700
