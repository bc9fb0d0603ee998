"""Load the compiled kernels, in the fastest form that this machine can run; `build.py` compiles them.

``EARLYBELL_ISA`` names another form. It changes no answer, only how fast it comes.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from ctypes import byref, c_int32
from dataclasses import dataclass
from typing import Any

from earlybell.errors import UserError
from earlybell.inference.kernels import build, structs

VARIABLE = "EARLYBELL_ISA"
COST = "texts are scored through torch instead, at half the speed or less, and with other bits"


class KernelsError(UserError):
    """The kernels cannot be run as asked; the message is one line that says what can be done."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels in one form: the functions of ``struct form``, and those of `wordpiece.c`, which have no form."""

    form: str
    forward: Callable[..., None]
    embed: Callable[..., None]
    layer: Callable[..., None]
    exit: Callable[..., None]
    softmax: Callable[..., None]
    decide: Callable[..., None]
    compact: Callable[..., int]
    index: Callable[..., None]
    read: Callable[..., None]


class _NotLoaded(Exception):
    """Why there is no library to load."""


@functools.cache
def load() -> Kernels | None:
    """Return the kernels in the form that `chosen_form` names, or None: then `missing` says why.

    Raises
    ------
    KernelsError
        ``EARLYBELL_ISA`` names a form that cannot run here, or the library is older than its sources.
    """
    form = chosen_form()
    return None if form is None else kernels(form)


def chosen_form() -> str | None:
    """Return the form that ``EARLYBELL_ISA`` names, or else the fastest that can run here; None without a library.

    Raises
    ------
    KernelsError
        As `load`.
    """
    available = forms()
    wanted = os.environ.get(VARIABLE, "")
    if not available or not wanted:
        return next(iter(available), None)
    if wanted not in available:
        raise KernelsError(f"{VARIABLE} is {wanted!r}: choose what this machine can run: {', '.join(available)}")
    return wanted


def forms() -> tuple[str, ...]:
    """Return the forms that can run here, the fastest first; none without a library."""
    try:
        return tuple(_forms(_library()))
    except _NotLoaded:
        return ()


def kernels(form: str) -> Kernels:
    """Return the kernels in this form, which must be one of `forms`."""
    library = _library()
    table = _forms(library)[form]
    functions: dict[str, Any] = {name: getattr(table, name) for name in structs.FUNCTIONS}
    return Kernels(form, **functions, index=library.earlybell_index, read=library.earlybell_read)


def missing() -> str | None:
    """Return one line that says why there are no kernels, what to do and what it costs; None if there are."""
    try:
        _library()
    except _NotLoaded as reason:
        return f"{reason}; {COST}"
    return None


def _forms(library: ctypes.CDLL) -> dict[str, structs.Form]:
    found, runs, place = {}, c_int32(), 0
    while table := library.earlybell_form(place, byref(runs)):
        if runs.value:
            found[table.contents.name.decode()] = table.contents
        place += 1
    return found


@functools.cache
def _library() -> ctypes.CDLL:
    in_checkout = bool(build.sources())
    if not build.LIBRARY.is_file():
        if in_checkout:
            raise _NotLoaded("the int8 kernels are not compiled: run `make kernels`")
        raise _NotLoaded("earlybell was installed without the int8 kernels: install a C compiler, then earlybell again")
    if in_checkout and not build.is_current():
        raise KernelsError("the compiled kernels are older than their sources: run `make kernels`")
    try:
        library = ctypes.CDLL(str(build.LIBRARY))
    except OSError as error:
        raise _NotLoaded(f"the int8 kernels cannot be loaded: {error}") from error
    structs.check(library)
    return library
