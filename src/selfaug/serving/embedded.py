"""The engine in this process: requests of both models decoded together, token by token.

A thread of its own runs the models; requests come to it through a queue, and pieces go back to the event loop that
asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfaug.model.answer_text import AnswerText
from selfaug.model.generate import draw, end_tokens
from selfaug.model.running_batch import NoRoomError
from selfaug.model.token_bytes import token_bytes, token_text
from selfaug.serving.generation import (
    SHUTDOWN_WAIT,
    EngineError,
    Model,
    OverloadedError,
    Piece,
    Sampling,
    TokenChance,
)
from selfaug.serving.lanes import Lane, lanes_of

__all__ = ["Cancellation", "EmbeddedEngine"]

_T = TypeVar("_T")

# Prompt tokens, padding included, run at once while other answers wait for their next token.
_PREFILL_TOKENS = 2048

# Answers whose duration says how long a waiting request will wait.
_REMEMBERED = 32


@dataclass(eq=False)
class _Request:
    """A request on its way through the engine. Only the engine's thread touches what comes after `cancelled`."""

    model: Model
    prompt: Sequence[int]
    sampling: Sampling
    tell: Callable[[Piece | EngineError], None]
    text: AnswerText
    generator: torch.Generator | None
    cancelled: threading.Event = field(default_factory=threading.Event)
    made: int = 0
    token: int = 0
    began: float = 0.0

    def fail(self, error: EngineError) -> None:
        self.tell(error)


@dataclass(eq=False)
class _Job:
    """Something else to be done with the models.

    Attributes:
        due: when it is done even if requests are being answered, by the clock of `time.monotonic`.
        done: its result.
    """

    work: Callable[[], Any]
    due: float
    done: Future[Any] = field(default_factory=Future)

    def fail(self, error: EngineError) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class Cancellation:
    """Says that somebody wants no more of what they had an engine do: what waits is not done, nor what comes later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[_Job] = set()
        self._cancelled = False

    def cancel(self) -> None:
        """Who waits for a job gets EngineError at once, unless it is being done. Waits for nothing."""
        with self._lock:
            self._cancelled = True
            waiting = list(self._waiting)
        for job in waiting:
            job.done.cancel()

    def add(self, job: _Job) -> None:
        """A job that is to be cancelled with the others."""
        with self._lock:
            self._waiting.add(job)
            if self._cancelled:
                job.done.cancel()

    def remove(self, job: _Job) -> None:
        """A job that is done."""
        with self._lock:
            self._waiting.discard(job)


class EmbeddedEngine:
    """Answers requests with models that are in memory.

    Attributes:
        whole_in_pieces: as for `Engine`.
        job_seconds: that what `when_idle` was given has taken so far.
        on_lost: called with the reason if the GPU can't be used any more; the engine has stopped then.

    Args:
        tuned: the tuned model.
        base: the base model; None: the tuned model with its adapter off.
        tokenizer: of both.
        max_batch: answers made at once, of both models together.
        max_waiting: requests that may wait beside these; more are refused.
        max_seconds: in which a request must be answered: one that would have to wait too long for that is refused,
            too.
    """

    whole_in_pieces = True

    def __init__(
        self,
        tuned: PreTrainedModel | PeftModel,
        base: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch: int = 16,
        max_waiting: int = 64,
        max_seconds: float = math.inf,
    ) -> None:
        tuned.eval()
        if base is not None:
            base.eval()
        self._tokenizer = tokenizer
        self._ends = end_tokens(tuned, tokenizer)
        self._lanes = lanes_of(tuned, base)
        self._rows: dict[Lane, list[_Request]] = {lane: [] for lane in self._lanes}
        self._max_batch, self._max_waiting, self._max_seconds = max_batch, max_waiting, max_seconds
        self._arriving: queue.SimpleQueue[_Request | _Job | None] = queue.SimpleQueue()
        self._queue: deque[_Request | _Job] = deque()
        self._jobs: deque[_Job] = deque()
        self.job_seconds = 0.0
        self._lock = threading.RLock()
        self._asked = self._waiting = 0
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._stopping = threading.Event()
        # No `Event`: a second signal, within the first one's handler, would wait for its lock for ever.
        self._ending = False
        self.on_lost: Callable[[str], None] = lambda _: None
        self._thread = threading.Thread(target=self._run, name="selfaug-engine", daemon=True)
        self._thread.start()

    # ---- called by the event loop

    async def generate(
        self, model: Model, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Piece]:
        """Answer a prompt; see `Engine`."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | EngineError] = asyncio.Queue()

        def tell(piece: Piece | EngineError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to hear it
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        request = _Request(
            model,
            prompt,
            sampling,
            tell,
            AnswerText(self._tokenizer, sampling.stop, prompt if sampling.continues else ()),
            self._generator(sampling),
        )
        with self._lock:
            if self._stopping.is_set() or not self._thread.is_alive():
                raise EngineError("the engine has stopped")
            if self._asked >= self._max_batch + self._max_waiting or self._would_be_late():
                raise OverloadedError(self._expected_wait())
            self._asked += 1
            self._waiting += 1
            self._arriving.put(request)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, EngineError):
                    raise piece
                yield piece
                if piece.finish is not None:
                    return
        finally:
            request.cancelled.set()
            with self._lock:
                self._asked -= 1

    @property
    def mixes(self) -> bool:
        """Whether requests for either model share batches, so that the adapter must be one that can be off for some."""
        return any(len(lane.serves) > 1 for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return self._waiting

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return sum(len(rows) for rows in self._rows.values())

    def when_idle(
        self, work: Callable[[], _T], *, patience: float = 30.0, unless: Cancellation | None = None
    ) -> _T:
        """Do something with the models in the engine's thread, where no request uses them meanwhile.

        Called from another thread, which waits for it.

        Args:
            work: short: requests wait for its end.
            patience: seconds after which it is done between two tokens, if the engine has not been idle before.
            unless: it is not done once this is cancelled.

        Returns:
            The work's result.

        Raises:
            EngineError: if the engine ends, or the work is cancelled. What the work raises is raised here.
        """
        job = _Job(work, time.monotonic() + patience)
        wanted = Cancellation() if unless is None else unless
        wanted.add(job)
        with self._lock:
            if self._stopping.is_set() or not self._thread.is_alive():
                raise EngineError("the engine has stopped")
            self._jobs.append(job)
        self._arriving.put(None)
        try:
            result: _T = job.done.result()
        except CancelledError as error:
            raise EngineError("nobody wants this any more") from error
        finally:
            wanted.remove(job)
        return result

    def in_turn(self, work: Callable[[], _T]) -> _T:
        """Do something with the models when all earlier requests have been answered, before the later ones.

        Called from another thread, which waits for it. No request fails: later ones wait until it is done.

        Args:
            work: what `use_adapter` is for.

        Returns:
            The work's result.

        Raises:
            EngineError: if the engine ends. What the work raises is raised here.
        """
        job = _Job(work, 0.0)
        with self._lock:
            if self._stopping.is_set() or not self._thread.is_alive():
                raise EngineError("the engine has stopped")
            self._arriving.put(job)
        result: _T = job.done.result()
        return result

    def use_adapter(self, adapter: str) -> None:
        """Answer requests for the tuned model with another adapter, which it has already. Called within `in_turn`."""
        for lane in self._lanes:
            lane.use_adapter(adapter)

    def begin_no_more(self) -> None:
        """Fail what waits, and what comes; what runs goes on. A request with several answers fails if one waits."""
        self._ending = True
        self._arriving.put(None)

    def close(self) -> None:
        """End the thread; what runs or waits fails."""
        self._stopping.set()
        self._arriving.put(None)
        self._thread.join()

    def _generator(self, sampling: Sampling) -> torch.Generator | None:
        if sampling.temperature == 0:
            return None
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        return torch.Generator(self._lanes[0].device).manual_seed(seed)

    def _expected_wait(self) -> float:
        """Seconds until a place is likely to be free."""
        return max(1.0, self._mean_seconds() / self._max_batch)

    def _would_be_late(self) -> bool:
        """Whether a further request would not be answered in time, behind all that have no place yet."""
        behind = max(0, self._asked - self._max_batch)
        return behind > 0 and (1 + behind / self._max_batch) * self._mean_seconds() > self._max_seconds

    def _mean_seconds(self) -> float:
        """How long an answer takes, once it has begun."""
        return sum(self._seconds) / max(len(self._seconds), 1)

    # ---- the engine's thread

    def _run(self) -> None:
        with torch.inference_mode():
            while not self._stopping.is_set():
                idle = not self._queue and not self.running and not self._jobs
                if idle:
                    self._settle()
                self._receive(block=idle)
                if self._stopping.is_set():
                    break
                self._do_job()
                for lane in self._lanes:
                    try:
                        self._advance(lane)
                    except Exception as error:  # any: the engine outlives a batch that failed
                        self._fail(lane, error)
        self._settle()
        with self._lock:
            self._receive(block=False)
            for one in [*self._queue, *self._jobs, *(row for rows in self._rows.values() for row in rows)]:
                one.fail(EngineError("the engine has stopped"))

    def _do_job(self) -> None:
        """One, if it is its turn: nothing is asked for, it has waited long enough, or all before it is answered."""
        while self._jobs and self._jobs[0].done.cancelled():  # it would keep those behind it waiting
            self._jobs.popleft()
        first = self._queue[0] if self._queue else None
        if isinstance(first, _Job):
            if not self.running:
                self._queue.popleft()
                self._do(first)
        elif self._jobs and (not (first or self.running) or time.monotonic() >= self._jobs[0].due):
            self._do(self._jobs.popleft())

    def _settle(self) -> None:
        """The models are as whatever else uses them expects them."""
        for lane in self._lanes:
            lane.settle()

    def _do(self, job: _Job) -> None:
        if not job.done.set_running_or_notify_cancel():
            return
        began = time.monotonic()
        self._settle()
        try:
            result = job.work()
        except Exception as error:  # its caller's; the engine goes on, if it can
            job.done.set_exception(error)
            self._lose(self._lanes[0], error)
        else:
            job.done.set_result(result)
        finally:
            self.job_seconds += time.monotonic() - began

    def _receive(self, *, block: bool) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                request = self._arriving.get(block=block)
                block = False
                if request is not None:
                    self._queue.append(request)
        ending = self._ending
        for request in [one for one in self._queue if isinstance(one, _Request)]:
            if ending or request.cancelled.is_set():
                self._queue.remove(request)
                self._begun()
                request.fail(EngineError("the server is shutting down", 503, retry_after=SHUTDOWN_WAIT))

    def _advance(self, lane: Lane) -> None:
        """Let requests join, and make one more token of each."""
        self._drop_cancelled(lane)
        if (logits_NV := self._stepped(lane)) is not None:
            self._take(lane, list(self._rows[lane]), logits_NV)
        joining = self._joining(lane)
        if joining:
            self._join(lane, joining)

    def _join(self, lane: Lane, joining: list[_Request]) -> None:
        """Make the first token of each. Those that don't fit beside what is being answered are turned away.

        Where nothing is, waiting would not help: the longest of them is tried alone, as the others may fit without it.
        """
        rows = self._rows[lane]
        rows += joining
        try:
            logits_NV = lane.join([r.prompt for r in joining], [r.model for r in joining])
        except NoRoomError:
            del rows[-len(joining) :]
        else:
            self._take(lane, joining, logits_NV)
            return
        # Not above: until there, the error keeps what has found no room.
        if len(joining) == 1 or self.running:
            self._turn_away(joining, beside=self.running)
            return
        longest = max(joining, key=lambda request: len(request.prompt))
        self._put_back([request for request in joining if request is not longest])
        self._join(lane, [longest])

    def _stepped(self, lane: Lane) -> Tensor | None:
        """Logits of each row's next token. Rows that the GPU's memory doesn't suffice for are given up before: those
        that came last, as with prompts that don't fit beside the others."""
        rows = self._rows[lane]
        while rows:
            tokens = torch.tensor([request.token for request in rows], device=lane.device)
            with contextlib.suppress(NoRoomError):
                return lane.step(tokens)
            last = rows[-1]
            self._keep(lane, list(range(len(rows) - 1)))
            self._turn_away([last], beside=self.running)
        return None

    def _joining(self, lane: Lane) -> list[_Request]:
        """Requests whose turn it is: first come, first served."""
        joining: list[_Request] = []
        if not lane.open:
            return joining
        left: deque[_Request | _Job] = deque()
        room, longest = self._max_batch - self.running, 0
        while self._queue and room > 0:
            request = self._queue.popleft()
            if isinstance(request, _Job):
                left.append(request)
                break
            width = max(longest, len(request.prompt))
            if request.model not in lane.serves:
                # Its place is kept for it: else those of this lane that came later would take every place there is.
                left.append(request)
                room -= 1
            elif joining and (len(joining) + 1) * width > _PREFILL_TOKENS:
                left.append(request)
                break
            else:
                request.began = time.monotonic()
                joining.append(request)
                self._begun()
                room, longest = room - 1, width
        self._queue.extendleft(reversed(left))
        return joining

    def _put_back(self, requests: Sequence[_Request]) -> None:
        """They have not begun after all, and come before those that came later."""
        self._queue.extendleft(reversed(requests))
        with self._lock:
            self._waiting += len(requests)

    def _begun(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _drop_cancelled(self, lane: Lane) -> None:
        rows = self._rows[lane]
        kept = [place for place, request in enumerate(rows) if not request.cancelled.is_set()]
        self._keep(lane, kept)

    def _keep(self, lane: Lane, kept: list[int]) -> None:
        rows = self._rows[lane]
        if len(kept) < len(rows):
            lane.keep(kept)
            rows[:] = [rows[place] for place in kept]

    def _take(self, lane: Lane, requests: list[_Request], logits_NV: Tensor) -> None:
        """Choose a token for each of the rows, and let go those that have ended."""
        likeliest = logits_NV.argmax(-1).tolist()
        told: list[tuple[_Request, Piece]] = []
        ended: set[_Request] = set()
        for place, request in enumerate(requests):
            logits_V = logits_NV[place]
            request.token = likeliest[place]
            if request.generator is not None:
                sampling = request.sampling
                drawn = draw(logits_V[None], sampling.temperature, sampling.top_p, request.generator)
                request.token = int(drawn[0])
            piece = self._piece(request, logits_V)
            told.append((request, piece))
            if piece.finish is not None:
                ended.add(request)
                self._seconds.append(time.monotonic() - request.began)
        if ended:
            rows = self._rows[lane]
            self._keep(lane, [place for place, request in enumerate(rows) if request not in ended])
        # Last: who hears that an answer has ended finds its place free.
        for request, piece in told:
            request.tell(piece)

    def _piece(self, request: _Request, logits_V: Tensor) -> Piece:
        if request.token in self._ends:
            return Piece(request.text.end(), 0, [], "stop")
        request.made += 1
        text = request.text.add(request.token)
        finish = None
        if request.made == request.sampling.max_tokens:
            text, finish = text + request.text.end(), "length"
        if request.text.stopped:
            finish = "stop"
        return Piece(text, 1, self._chances(request, logits_V), finish)

    def _chances(self, request: _Request, logits_V: Tensor) -> list[TokenChance]:
        count = request.sampling.chances
        if count is None:
            return []
        logprobs_V = logits_V.float().log_softmax(-1)
        best = logprobs_V.topk(min(count, len(logprobs_V)))
        begins = request.made == 1 and not request.text.goes_on
        alternatives = [
            self._chance(token, logprob, begins)
            for logprob, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        own = self._chance(request.token, float(logprobs_V[request.token]), begins)
        return [own._replace(alternatives=alternatives)]

    def _chance(self, token: int, logprob: float, begins: bool) -> TokenChance:
        # Where a text begins, the tokeniser drops a space, so a token is told as it reads there.
        text = str(self._tokenizer.decode([token])) if begins else token_text(self._tokenizer, token)
        return TokenChance(text, logprob, token_bytes(self._tokenizer, token, text))

    def _turn_away(self, requests: Sequence[_Request], *, beside: int) -> None:
        """Fail requests whose prompts or answers the GPU's memory doesn't suffice for; the others go on."""
        for request in requests:
            request.tell(self._no_room(request, beside=beside))

    def _no_room(self, request: _Request, *, beside: int) -> EngineError:
        what, instead = "this prompt", "send a shorter one"
        if request.made:
            what = "an answer as long as this one"
            instead = "ask for fewer tokens (`max_tokens`), or send a shorter prompt"
        why = f"the GPU's memory doesn't suffice for {what}"
        if beside:
            return EngineError(f"{why} beside what is being answered", 503, retry_after=self._expected_wait())
        return EngineError(f"{why}: {instead}", 413)

    def _fail(self, lane: Lane, error: Exception) -> None:
        failure, rows = EngineError(f"{type(error).__name__} while answering"), self._rows[lane]
        if isinstance(error, torch.OutOfMemoryError) and len(rows) == self.running == 1:
            failure = self._no_room(rows[0], beside=0)
        elif isinstance(error, torch.OutOfMemoryError):
            failure = EngineError(
                "the GPU's memory doesn't suffice for all that is being answered",
                503,
                retry_after=self._expected_wait(),
            )
        failure.__cause__ = error
        for request in rows:
            request.tell(failure)
        rows.clear()
        if not self._lose(lane, error):
            lane.clear()

    def _lose(self, lane: Lane, error: Exception) -> bool:
        """Stop if the GPU can't be used any more, as after an assertion that failed on it."""
        if "CUDA error" not in str(error) or _is_usable(lane.device):
            return False
        self._stopping.set()
        self.on_lost(f"the GPU failed: {str(error).splitlines()[0]}")
        return True


def _is_usable(device: torch.device) -> bool:
    """Whether a GPU still answers this process."""
    try:
        torch.cuda.synchronize(device)
    except Exception:  # of whichever kind: it doesn't
        return False
    return True
