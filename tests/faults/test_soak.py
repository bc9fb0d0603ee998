"""A short soak, each night; ``python -m tests.faults.soak`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import soak


@pytest.mark.nightly
@pytest.mark.timeout(3600)
async def test_a_soak_loses_doubles_and_falsifies_nothing(tmp_path: Path) -> None:
    result = await soak(seed=13, faults=20, log=tmp_path / "roles.log")
    assert result.revisions
    assert result.broken
    assert result.account, str(result.account)
