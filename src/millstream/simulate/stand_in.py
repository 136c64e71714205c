"""The stand-in behind the HTTP layer: keeps what the pure parts need to know, and really waits.

One event loop, no locks: state changes only between awaits.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from millstream.simulate.answer import Answer, Piece, plan_answer, plan_embeddings
from millstream.simulate.api_error import ApiError, error_on_demand
from millstream.simulate.chat import ChatRequest
from millstream.simulate.draws import Draw
from millstream.simulate.embeddings import EmbeddingsRequest
from millstream.simulate.limits import BlockCache, RateLimiter
from millstream.simulate.pace import pace_of
from millstream.simulate.rules import Failure, Model, PrefixCache, Rules
from millstream.simulate.stats import Counters
from millstream.simulate.vectors import vector_of
from millstream.simulate.wire import usage_of

T = TypeVar("T")

_MOST_REMEMBERED: Final = 1_000_000
"""Distinct requests whose repetitions are counted; the oldest are forgotten beyond it."""


class ConnectionFault(Exception):  # noqa: N818  # not an error of ours: the answer that the rules ask for
    """The rules ask for a broken connection.

    Args:
        kind: `reset` or `hang`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class RunningModel:
    """One model with its queue, its limits and its memory."""

    def __init__(self, name: str, model: Model) -> None:
        self.model = model
        self.counters = Counters()
        self.limiter = RateLimiter(model.rate_limits, name)
        self.admitted = 0
        self._slots = asyncio.Semaphore(model.max_concurrency) if model.max_concurrency else None
        self._cache = self._make_cache(model.prefix_cache)

    @staticmethod
    def _make_cache(config: bool | PrefixCache) -> BlockCache | None:  # noqa: FBT001  # as in the rules file
        if config is False:
            return None
        return BlockCache(PrefixCache() if config is True else config)

    def cached_tokens(self, request: ChatRequest | EmbeddingsRequest) -> int:
        """Prompt tokens that need no computing; the prompt of a chat is in the cache afterwards."""
        if self._cache is None or isinstance(request, EmbeddingsRequest):
            return 0
        return self._cache.read_and_store(request.prompt_tokens)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place in the batch; waits in order of arrival while all are taken."""
        if self._slots is None:
            async with self._counted():
                yield
            return
        self.counters.queued += 1
        try:
            await self._slots.acquire()
        finally:
            self.counters.queued -= 1
        try:
            async with self._counted():
                yield
        finally:
            self._slots.release()

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self.counters.in_flight += 1
        try:
            yield
        finally:
            self.counters.in_flight -= 1


@dataclass(frozen=True)
class Exchange:
    """A request that was let in, and its planned answer."""

    request: ChatRequest | EmbeddingsRequest
    answer: Answer
    draw: Draw
    running: RunningModel


class StandIn:
    """Answers requests as a rules file says.

    Args:
        rules: the rules file.
        seed: equal seeds give equal answers to equal requests.
    """

    def __init__(self, rules: Rules, seed: int) -> None:
        self.rules = rules
        self.models = {name: RunningModel(name, model) for name, model in rules.models.items()}
        self.refused = Counters()
        """Requests that came to no model."""
        self._seed = seed
        self._times_seen: dict[bytes, int] = {}

    def authorize(self, authorization: str | None) -> None:
        """Check the bearer token.

        Raises:
            ApiError: 401.
        """
        expected = self.rules.api_key
        if expected is None:
            return
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header "
                "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
            raise ApiError(401, message)
        if not secrets.compare_digest(token.encode(), expected.encode()):
            shown = f"{token[:3]}***{token[-4:]}" if len(token) > len("sk-***") + 4 else "***"
            raise ApiError(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")

    def model(self, name: str) -> RunningModel:
        """The model of this name.

        Raises:
            ApiError: 404.
        """
        if name not in self.models:
            message = f"The model `{name}` does not exist or you do not have access to it."
            raise ApiError(404, message, code="model_not_found")
        return self.models[name]

    def read(self, raw: bytes, parse: Callable[[bytes], T]) -> T:
        """Read the body of a request; a malformed one is counted.

        Raises:
            ApiError: what `parse` raises.
        """
        with self._counting_refused():
            return parse(raw)

    def open(self, request: ChatRequest | EmbeddingsRequest) -> Exchange:
        """Plan the answer to a request and let it in.

        Raises:
            ApiError: it is too long, names an unknown model, or is over a rate limit.
        """
        with self._counting_refused():
            running = self.model(request.model)
        running.counters.requests += 1
        try:
            return self._admit(request, running)
        except ApiError as error:
            running.counters.errors[str(error.status)] += 1
            raise

    @contextmanager
    def _counting_refused(self) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            self.refused.requests += 1
            self.refused.errors[str(error.status)] += 1
            raise

    def _admit(self, request: ChatRequest | EmbeddingsRequest, running: RunningModel) -> Exchange:
        request.check_model(running.model)
        seen = self._times_seen.get(request.fingerprint, 0)
        draw = Draw(self._seed, request.fingerprint, seen)
        if isinstance(request, EmbeddingsRequest):
            answer = plan_embeddings(running.model, draw, running.admitted + 1)
        else:
            answer = plan_answer(self.rules, request, draw, running.admitted + 1)
        made = sum(choice.completion_tokens for choice in answer.choices)
        tokens = len(request.prompt_tokens) + made
        running.limiter.admit(tokens, asyncio.get_running_loop().time())
        running.admitted += 1
        if seen == 0 and len(self._times_seen) >= _MOST_REMEMBERED:
            del self._times_seen[next(iter(self._times_seen))]
        self._times_seen[request.fingerprint] = seen + 1
        return Exchange(request, answer, draw, running)

    async def answer(
        self,
        exchange: Exchange,
        emit: Callable[[Piece], Awaitable[None]] | None = None,
        *,
        begin: Callable[[], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """Take the time that the answer takes.

        Args:
            exchange: what `open` gave.
            emit: called with each piece when it comes; `None` waits for the whole answer at once.
            begin: called when the request has left the queue.

        Returns:
            The `usage` object.

        Raises:
            ApiError: the error that the rules ask for.
            ConnectionFault: likewise.
        """
        counters = exchange.running.counters
        try:
            usage = await self._answer(exchange, emit, begin)
        except asyncio.CancelledError:
            counters.cancelled += 1
            raise
        except ApiError as error:
            counters.errors[str(error.status)] += 1
            raise
        except ConnectionFault as fault:
            counters.errors[fault.kind] += 1
            raise
        counters.add_usage(usage)
        return usage

    async def _answer(
        self,
        exchange: Exchange,
        emit: Callable[[Piece], Awaitable[None]] | None,
        begin: Callable[[], Awaitable[None]] | None,
    ) -> dict[str, Any]:
        answer, running = exchange.answer, exchange.running
        failure = answer.failure
        if failure is not None and failure.after_tokens == 0:
            await _fail(failure)
        async with running.slot():
            start_s = asyncio.get_running_loop().time()
            cached = running.cached_tokens(exchange.request)
            prompt = len(exchange.request.prompt_tokens)
            pace = pace_of(running.model.latency, answer, prompt - cached, exchange.draw)
            if begin is not None:
                await begin()
            if emit is not None:
                for piece, piece_s in zip(pace.pieces, pace.pieces_s, strict=True):
                    await _sleep_until(start_s + piece_s)
                    await emit(piece)
            await _sleep_until(start_s + pace.end_s)
            if failure is not None:
                await _fail(failure)
        return usage_of(answer, prompt, cached)

    def vectors(self, request: EmbeddingsRequest) -> list[list[float]]:
        """One vector for each text of the request."""
        dimensions = request.dimensions or self.model(request.model).model.dimensions
        return [vector_of(text, dimensions, self._seed) for text in request.texts]

    def stats(self) -> dict[str, Any]:
        """Counts over all models, and by model."""
        total = sum((running.counters for running in self.models.values()), self.refused)
        by_model = {name: running.counters.as_json() for name, running in self.models.items()}
        return {**total.as_json(), "models": by_model}


async def _sleep_until(deadline_s: float) -> None:
    wait_s = deadline_s - asyncio.get_running_loop().time()
    if wait_s > 0:
        await asyncio.sleep(wait_s)


async def _fail(failure: Failure) -> None:
    if failure.delay_s:
        await asyncio.sleep(failure.delay_s)
    if failure.fault is not None:
        raise ConnectionFault(failure.fault)
    if failure.status is not None:
        raise error_on_demand(failure.status, failure.message, failure.retry_after_s)
