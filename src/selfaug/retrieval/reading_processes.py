"""Processes that read documents: each has limits of time and memory, is used for many files, and may die.

A parser that hangs, eats memory or crashes on a hostile file takes only its own process with it. Each process has a
pipe of its own, so that one that is killed while it writes can't leave the others waiting for a lock.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from selfaug.errors import SelfAugError
from selfaug.retrieval.document import Document, UnreadableDocument

__all__ = ["ReadFailure", "Reader", "ReadingProcesses"]

Reader = Callable[[Path, str], Document]
"""Reads a file under a name; importable by another process."""

_READY = b"ready"
_OUT_OF_MEMORY = 86  # exit code
_GRACE_SECONDS = 5.0
_START_SECONDS = 120.0
_PRELOADED = [f"selfaug.retrieval.{name}" for name in ("pdf", "docx", "xlsx", "html", "markup_text")]


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Why a file could not be read.

    Attributes:
        reason: in one line.
        may_pass: whether the cause may be gone another time, though the file and the limits are the same.
    """

    reason: str
    may_pass: bool = False


class ReadingProcesses:
    """A fixed number of processes, started when they are needed and replaced when they die.

    Use as a context manager: at its end no process is left, whatever they were doing.

    Args:
        reader: reads a file; raises `UnreadableDocument` with a reason.
        count: most processes at a time.
        seconds: most of them for one file.
        memory_bytes: most of a process, on top of what the libraries take.
    """

    def __init__(self, reader: Reader, count: int, seconds: float, memory_bytes: int) -> None:
        self._reader = reader
        self._count = count
        self._seconds = seconds
        self._memory = memory_bytes
        self._processes: list[_Process] = []
        self._context = _context()

    def __enter__(self) -> ReadingProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    @property
    def has_room(self) -> bool:
        """Whether a file can be given to a process at once."""
        return len(self._processes) < self._count or any(process.name is None for process in self._processes)

    @property
    def is_busy(self) -> bool:
        """Whether a file is being read."""
        return any(process.name is not None for process in self._processes)

    def read(self, file: Path, name: str) -> None:
        """Begin to read a file; there must be room.

        Raises:
            SelfAugError: if processes can't be started.
        """
        idle = next((process for process in self._processes if process.name is None), None)
        if idle is None:
            idle = _Process(self._context, self._reader, self._seconds, self._memory)
            self._processes.append(idle)
        idle.assign(file, name)

    def finished(self) -> list[tuple[str, Document | ReadFailure]]:
        """Wait until a file is finished; names, and the document or the reason why there is none.

        Raises:
            SelfAugError: if processes can't be started.
        """
        found: list[tuple[str, Document | ReadFailure]] = []
        while not found:
            busy = {process.pipe: process for process in self._processes if process.name is not None}
            until = min(process.deadline for process in busy.values())
            for pipe in connection.wait(list(busy), max(until - time.monotonic(), 0.0)):
                found += self._heard(busy.pop(pipe))  # type: ignore[call-overload]
            found += [
                self._lost(process, self._too_slow())
                for process in busy.values()
                if process.deadline <= time.monotonic()
            ]
        return found

    def _heard(self, process: _Process) -> list[tuple[str, Document | ReadFailure]]:
        try:
            message = process.pipe.recv_bytes()
        except (EOFError, OSError):
            return [self._lost(process, None)]
        if message == _READY:
            process.begin(self._seconds)
            return []
        assert process.name is not None
        name, process.name = process.name, None
        return [(name, pickle.loads(message))]

    def _lost(self, process: _Process, why: ReadFailure | None) -> tuple[str, ReadFailure]:
        self._processes.remove(process)
        if why is not None:
            process.kill()
        code = process.wait()
        if not process.is_ready:
            raise SelfAugError(
                f"the processes that read documents can't be started (exit code {code}).",
                hint="a script of your own has to call this under `if __name__ == '__main__':`.",
            )
        assert process.name is not None
        return process.name, why or self._cause(code)

    def _too_slow(self) -> ReadFailure:
        # Tried each time, such a file would hold up every preparation; on a busy machine, another one may have time.
        return ReadFailure(
            f"takes more than {self._seconds:g} s to read; raise documents.seconds to try it again"
        )

    def _cause(self, code: int | None) -> ReadFailure:
        if code == _OUT_OF_MEMORY:
            return ReadFailure(f"needs more than {self._memory / 1e9:.2g} GB of memory to read")
        if code is None or code >= 0:
            return ReadFailure(
                f"ended the process that read it (exit code {code}); it may be damaged", may_pass=True
            )
        if -code == getattr(signal, "SIGALRM", None):
            return self._too_slow()
        name = signal.Signals(-code).name
        if name == "SIGKILL":
            return ReadFailure(
                "the system killed the process that read it; memory may be short", may_pass=True
            )
        return ReadFailure(
            f"crashed the process that read it ({name}); it is damaged, or needs too much memory",
            may_pass=True,
        )


class _Process:
    """One process and this side of its pipe; `name` is that of the file that it reads.

    Raises:
        SelfAugError: if it can't be started.
    """

    def __init__(self, context: BaseContext, reader: Reader, seconds: float, memory_bytes: int) -> None:
        try:
            self.pipe, theirs = context.Pipe()
        except OSError as error:
            raise _not_started(error) from error
        self.name: str | None = None
        self.is_ready = False
        self.deadline = time.monotonic() + _START_SECONDS
        self._process = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(theirs, reader, seconds, memory_bytes), daemon=True
        )
        try:
            self._process.start()
        except (OSError, EOFError) as error:  # EOFError: the one that it would have been forked from has died
            self.pipe.close()
            raise _not_started(error) from error
        finally:
            theirs.close()  # else its end would not be noticed

    def assign(self, file: Path, name: str) -> None:
        """Give it a file; one that is just starting takes it up when it is ready."""
        self.name = name
        with contextlib.suppress(OSError):  # it has died, which the next read of the pipe notices
            self.pipe.send((os.fspath(file), name))
        if self.is_ready:
            self.deadline = time.monotonic() + self._seconds

    def begin(self, seconds: float) -> None:
        """It has started: from now on time counts."""
        self.is_ready = True
        self._seconds = seconds
        self.deadline = time.monotonic() + seconds

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()

    def wait(self) -> int | None:
        """Its exit code."""
        self._process.join(_GRACE_SECONDS)
        self.pipe.close()
        code: int | None = self._process.exitcode
        return code


def _not_started(error: Exception) -> SelfAugError:
    """The error for what the system refuses: whoever writes what is read must not take it for their own."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SelfAugError(
        f"the processes that read documents can't be started: {reason}.",
        hint="set TMPDIR to a folder with a short path and room, or raise the limits of processes and open files "
        "(`ulimit -u`, `ulimit -n`).",
    )


def _context() -> BaseContext:
    """Processes that share nothing with this one; where possible, forked from one that has the parsers already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def _serve(pipe: Any, reader: Reader, seconds: float, memory_bytes: int) -> None:
    """What a process does: read files until its parent has no more, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    _be_quiet()
    _limit_memory(memory_bytes)
    pipe.send_bytes(_READY)
    while True:
        try:
            file, name = pipe.recv()
        except EOFError:
            return
        try:
            with _alarm(seconds + _GRACE_SECONDS):
                answer = pickle.dumps(_outcome(reader, Path(file), name))
            pipe.send_bytes(answer)
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)  # what is left of the heap can't be trusted to say more
        except OSError:  # the parent is gone
            return


def _outcome(reader: Reader, file: Path, name: str) -> Document | ReadFailure:
    try:
        return reader(file, name)
    except UnreadableDocument as error:
        return ReadFailure(str(error), error.may_pass)
    except MemoryError:
        raise
    except Exception as error:
        return ReadFailure(f"makes its reader fail ({type(error).__name__}: {error})", may_pass=True)


def _be_quiet() -> None:
    """Parsers complain about damaged files on the terminal; the report says what matters."""
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit_memory(memory_bytes: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            taken = int(statm.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        taken = 0
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = taken + memory_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


@contextlib.contextmanager
def _alarm(seconds: float) -> Any:
    """The system ends this process after a time, even in C code, and even if the parent is gone by then."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
