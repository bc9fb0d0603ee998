"""``python -m deploy.schemas``: write the published contracts anew."""

from __future__ import annotations

from pathlib import Path

from deploy.schemas.documents import documents

if __name__ == "__main__":
    for name, text in documents().items():
        Path(__file__).with_name(name).write_text(text)
