"""Which precision a device computes in, and the name of the arithmetic that its answers come from.

The choice is a rule, not a measurement: two machines, or two starts of one, must not answer under different identities.
"""

from __future__ import annotations

from importlib.metadata import version

from earlybell.inference.backends import int8_weights
from earlybell.inference.kernels import library
from earlybell.inference.kernels.library import Kernels
from earlybell.inference.model import figures
from earlybell.inference.model.config import Config
from earlybell.inference.predictions import INT8_ARITHMETIC

PRECISIONS = ("int8", "float32", "bfloat16")


def int8_kernels(config: Config) -> Kernels | None:
    """Return the compiled kernels, or None if there are none or they do not support this model."""
    return library.load() if int8_weights.is_supported(config) else None


def cpu_precision(has_int8: bool) -> str:
    """Return what ``auto`` stands for on a CPU: int8, or float32 where the kernels are missing or cannot run the model.

    On a GPU it is `backends.padded.gpu_precision`.
    """
    return "int8" if has_int8 else "float32"


def arithmetic_name(precision: str, device_type: str, exact: bool, *, reads_figures: bool) -> str:
    """Return the name of an arithmetic, as `ModelDescription.arithmetic` carries it.

    int8 gives the same bits on every processor and has a number of its own. What torch computes depends on its version
    and on the kind of device, and, unless every batch has the same shape (``exact``), in the last digits on what else
    is in the window: ``float32.cpu.torch2.13``, ``bfloat16.cuda.torch2.13.exact``. A model that reads a verdict on a
    text's figures also depends on the rules for it: ``int8.2.figures3``.
    """
    rules = f".figures{figures.RULES}" if reads_figures else ""
    if precision == "int8":
        return INT8_ARITHMETIC + rules
    release = ".".join(version("torch").split(".")[:2])
    return f"{precision}.{device_type}.torch{release}{rules}{'.exact' if exact else ''}"
