"""The pool's child process: one scorer, windows in, predictions out, until the parent disconnects.

It knows one socket and one scorer, and makes no decisions: the parent splits, retries and restarts. A window may begin
before the one before it has ended, but replies come in the order of the windows, so they need no id. The parent imports
this module for the messages, so it imports nothing heavy at the top level; torch is loaded along with the scorer.

A message is eight bytes of length and a pickle (protocol 5: the arrays of a window of 512 are 13 KB, copied once). Both
ends run the same program, so pickles are safe here; checkpoints are never pickles.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from earlybell.errors import UserError
from earlybell.inference.predictions import ModelDescription, OverlappingScorer, Predictions, Scorer, Timed, timed

MakeScorer: TypeAlias = Callable[[str], Scorer]

HEADER = struct.Struct("!Q")
#: After a failure the scorer must still be able to score this; otherwise the scorer is broken, not the window.
CONTROL_TEXT = "The company reported results in line with expectations."
#: By name, because referring to torch's exception would import torch.
OUT_OF_MEMORY_ERRORS = frozenset({"OutOfMemoryError", "MemoryError"})
MAX_REASON_CHARACTERS = 300
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ready:
    """The scorer is built and warmed up."""

    description: ModelDescription


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """The scorer could not be built or warmed up; the worker exits."""

    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The window's predictions, one row per text."""

    predictions: Predictions
    inference_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The scorer raised on this window but still works."""

    reason: str
    error: str
    where: str
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """The scorer raised on this window and on the control text too: a new process has to take over."""

    reason: str
    error: str
    where: str


Message: TypeAlias = Ready | BuildFailed | Answered | Failed | Broken


def frame(payload: bytes) -> bytes:
    """Return the payload prefixed with its length."""
    return HEADER.pack(len(payload)) + payload


def main(connection: socket.socket, device: str) -> None:
    """Build the scorer from the first message, then score windows until the parent disconnects.

    Parameters
    ----------
    connection
        The worker's end of the socket pair. End of file means that the parent died or disconnected.
    device
        What the scorer is built for: ``cpu``, ``cuda:0`` ...
    """
    _ignore_signals()
    _die_with_parent()
    _redirect_stdout_to_stderr()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Reads the next window while others are being scored, and notices mid-window when the parent disconnects.
    threading.Thread(target=_receive, args=(connection, inbox), name="inbox", daemon=True).start()
    try:
        make_scorer: MakeScorer = pickle.loads(inbox.get())
        scorer = make_scorer(device)
        scorer.warm_up()
        description = scorer.description
    except Exception as error:  # whatever went wrong, the parent is told
        _send(connection, BuildFailed(_sentence(error), _where(error)))
        return
    gc.freeze()  # what is loaded by now stays: a full collection of it would hold up a window and find nothing
    _send(connection, Ready(description))
    begun: queue.SimpleQueue[_Begun] = queue.SimpleQueue()
    threading.Thread(target=_begin, args=(scorer, inbox, begun), name="begin", daemon=True).start()
    while True:
        reply = _finish(scorer, begun.get())
        _send(connection, reply)
        if isinstance(reply, Broken):
            return


class _Begun(NamedTuple):
    """A window that may be under way."""

    texts: int
    answers: Callable[[], Timed]


def _begin(scorer: Scorer, inbox: queue.SimpleQueue[bytes], begun: queue.SimpleQueue[_Begun]) -> None:
    """Begin each window when it comes, if the scorer can do so while it scores another."""
    while True:
        try:
            texts, dial = pickle.loads(inbox.get())
        except BaseException:  # too little memory: the main thread would wait for this window until it is killed
            traceback.print_exc()
            os._exit(1)
        answers: Callable[[], Timed] = partial(timed, scorer.score, texts, dial)
        if isinstance(scorer, OverlappingScorer):
            with contextlib.suppress(Exception):  # it raises again where there is a reply to failures
                answers = scorer.begin(texts, dial)
        begun.put(_Begun(len(texts), answers))


def _finish(scorer: Scorer, window: _Begun) -> Answered | Failed | Broken:
    try:
        predictions, started, ended = window.answers()
        if len(predictions) != window.texts:
            raise RuntimeError(f"the scorer returned {len(predictions)} rows for {window.texts} texts")
        return Answered(predictions, ended - started)
    except Exception as error:  # a faulty text must not take the worker down
        reason, name, where = _sentence(error), type(error).__name__, _where(error)
        out_of_memory = any(base.__name__ in OUT_OF_MEMORY_ERRORS for base in type(error).__mro__)
    # Outside the except block, so that the frames holding the failed window's tensors are gone.
    _release_device_memory()
    try:
        scorer.score([CONTROL_TEXT])
    except Exception as error:  # a failed device fails on everything from then on
        return Broken(f"{reason}; and on a control text: {_sentence(error)}", name, where)
    return Failed(reason, name, where, out_of_memory)


def _receive(connection: socket.socket, inbox: queue.SimpleQueue[bytes]) -> None:
    try:
        for payload in _payloads(connection):
            inbox.put(payload)
    except OSError:
        pass  # connection reset: the parent is gone as well
    # Even mid-window: there is no one to reply to, and no clean-up may keep the device occupied.
    os._exit(0)


def _payloads(connection: socket.socket) -> Iterator[bytes]:
    with connection.makefile("rb") as stream:
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            (size,) = HEADER.unpack(header)
            payload = stream.read(size)
            if len(payload) < size:
                return
            yield payload


def _send(connection: socket.socket, message: Message) -> None:
    try:
        connection.sendall(frame(pickle.dumps(message, protocol=5)))
    except OSError:
        os._exit(0)


def _ignore_signals() -> None:
    # Ctrl-C reaches the whole process group and a service manager's SIGTERM the whole control group, but the parent may
    # still want its last windows scored. Both signals were blocked while this process started (see `process`).
    ignored = (signal.SIGINT, signal.SIGTERM)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)


def _die_with_parent() -> None:
    # The inbox thread cannot run while native code hangs holding the GIL; the kernel can still kill the process.
    # Linux ties this to the thread that started the worker: the event loop's (see `process`).
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _redirect_stdout_to_stderr() -> None:
    # The parent's standard output may carry data (`earlybell score`), so anything printed here, by Python (structlog's
    # default) or by native code, goes to standard error.
    sys.stdout = sys.stderr
    os.dup2(2, 1)


def _release_device_memory() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _sentence(error: Exception) -> str:
    named = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    text = " ".join(named.rstrip(": ").split())
    return text if len(text) <= MAX_REASON_CHARACTERS else f"{text[: MAX_REASON_CHARACTERS - 1]}…"


def _where(error: Exception) -> str:
    """Return the file and line that raised: unlike the message, it never quotes a text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
