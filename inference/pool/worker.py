"""The child process of the pool: one scorer, windows in, predictions out, until the parent hangs up.

It knows one socket and one scorer. It decides nothing: splitting, re-running and restarting are the parent's.
Windows are answered in the order in which they came, so an answer needs no address. The parent imports this module
for the messages, so nothing heavy is imported at its top; torch comes with the scorer.

A message travels as eight bytes of length and a pickle (protocol 5: the arrays of a window of 512 are 13 KB, copied
once). Both ends are the same program, so a pickle is safe here; checkpoints are never pickles.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from earlybell.inference.predictions import ModelDescription, Predictions, Scorer

MakeScorer: TypeAlias = Callable[[str], Scorer]

HEADER = struct.Struct("!Q")
#: A scorer that fails on a window must still answer this, else the scorer is broken and not the window.
CONTROL_TEXT = "The company reported results in line with expectations."
#: torch's exception cannot be named without importing torch.
OUT_OF_MEMORY = frozenset({"OutOfMemoryError", "MemoryError"})
LONGEST_REASON = 300
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ready:
    """The scorer is built and warm."""

    description: ModelDescription


@dataclass(frozen=True, slots=True)
class Unbuildable:
    """The scorer could not be built or warmed; the worker ends."""

    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The window's predictions, one row a text."""

    predictions: Predictions
    inference_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The scorer raised on this window and is well otherwise."""

    reason: str
    error: str
    where: str
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """The scorer raised on this window and on the control as well: a fresh process has to take over."""

    reason: str
    error: str
    where: str


Message: TypeAlias = Ready | Unbuildable | Answered | Failed | Broken


def frame(payload: bytes) -> bytes:
    """The payload with its length before it."""
    return HEADER.pack(len(payload)) + payload


def main(connection: socket.socket, device: str) -> None:
    """Build the scorer that the first message asks for, then answer windows for as long as the parent is there.

    Parameters
    ----------
    connection
        The worker's end of the pair. Nobody else holds it, so its end of file is the parent's death or farewell.
    device
        What the scorer is built for: ``cpu``, ``cuda:0`` ...
    """
    _leave_signals_to_the_parent()
    _die_with_the_parent()
    _keep_stdout_clean()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Takes the next window off the socket while this one is scored, and sees the parent go in the middle of one.
    threading.Thread(target=_receive, args=(connection, inbox), name="inbox", daemon=True).start()
    try:
        make_scorer: MakeScorer = pickle.loads(inbox.get())
        scorer = make_scorer(device)
        scorer.warm_up()
        description = scorer.description
    except Exception as error:  # whatever stops a scorer from being built, the parent is told
        _send(connection, Unbuildable(_sentence(error), _where(error)))
        return
    _send(connection, Ready(description))
    while True:
        answer = _answer(scorer, pickle.loads(inbox.get()))
        _send(connection, answer)
        if isinstance(answer, Broken):
            return


def _answer(scorer: Scorer, texts: Sequence[str]) -> Answered | Failed | Broken:
    started = time.perf_counter()
    try:
        predictions = scorer.score(texts)
        if len(predictions) != len(texts):
            raise RuntimeError(f"the scorer gave {len(predictions)} rows for {len(texts)} texts")
        return Answered(predictions, time.perf_counter() - started)
    except Exception as error:  # whatever a text makes a scorer raise, it costs that text and not the worker
        reason, name, where = _sentence(error), type(error).__name__, _where(error)
        out_of_memory = any(kind.__name__ in OUT_OF_MEMORY for kind in type(error).__mro__)
    # Only here are the frames gone that held the failed window's tensors.
    _release_device_memory()
    try:
        scorer.score([CONTROL_TEXT])
    except Exception as error:  # a device that failed fails on everything after it
        return Broken(f"{reason}; and on a control text: {_sentence(error)}", name, where)
    return Failed(reason, name, where, out_of_memory)


def _receive(connection: socket.socket, inbox: queue.SimpleQueue[bytes]) -> None:
    try:
        for payload in _payloads(connection):
            inbox.put(payload)
    except OSError:
        pass  # reset instead of closed: the parent is as gone
    # In mid-window too: nobody is left to hear the answer, and no clean-up may keep a device occupied.
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


def _leave_signals_to_the_parent() -> None:
    # Ctrl-C reaches the whole process group and a service manager's SIGTERM the whole control group; the parent may
    # want its last windows answered. Both were blocked while this process started, so none is lost or printed.
    handled = (signal.SIGINT, signal.SIGTERM)
    for number in handled:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)


def _die_with_the_parent() -> None:
    # The inbox thread cannot run while native code hangs with the interpreter's lock held; the kernel can.
    # Linux ties this to the thread that started the worker: the event loop's own (see `pool_process`).
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _keep_stdout_clean() -> None:
    # The parent's standard output may be somebody's data (`earlybell score`): prints, Python's (structlog's default
    # among them) and native code's, go to standard error.
    sys.stdout = sys.stderr
    os.dup2(2, 1)


def _release_device_memory() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _sentence(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def _where(error: Exception) -> str:
    """File and line that raised: unlike a message, that never quotes a text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
