"""The client for tasks of asyncio: the same as the one for threads, line by line, with `await`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload

import tenacity

from smartbatch.client import readiness
from smartbatch.client.authorization import Token
from smartbatch.client.calls import (
    RETRY,
    Call,
    OutOfTime,
    RetryableError,
    Unreachable,
    Untrusted,
    backoff,
    raising_first,
)
from smartbatch.client.exchange import AsyncExchange, HttpxExchange
from smartbatch.client.mapping import DEFAULT_CONCURRENCY, checked, map_in_tasks
from smartbatch.client.prediction import Prediction
from smartbatch.client.progress import Progress
from smartbatch.client.settings import ClientSettings
from smartbatch.client.targets import CHECK_S, Target


class AsyncClient:
    """Sends requests to one model; may be shared by the tasks of one event loop. Otherwise as `Client`."""

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        token: Token = None,
        *,
        deadline_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        verify: bool | str = True,
        exchange: AsyncExchange | None = None,
    ) -> None:
        """As `Client`'s.

        Args:
            exchange: what carries the requests, with certificates and proxies of its own; None takes httpx.
        """
        self._settings = ClientSettings(
            base_url, model, token, deadline_s=deadline_s, connect_timeout_s=connect_timeout_s
        )
        self._exchange = exchange or HttpxExchange(
            verify=self._settings.verify(verify), trust_env=self._settings.trust_env
        )

    async def predict(
        self,
        body: Any,
        *,
        deadline_s: float | None = None,
        output: str | None = None,
        accept: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Prediction:
        """As `Client.predict`. A Path is read by the event loop, which other tasks wait for."""
        call = self._settings.call(body, deadline_s=deadline_s, output=output, accept=accept, headers=headers)
        with call.told_plainly():
            try:
                return await self._attempt(call)
            except RetryableError as first:
                return await self._retry(call, first)

    @overload
    def map(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        progress: Progress = ...,
        **each: Any,
    ) -> AsyncIterator[Prediction]: ...
    @overload
    def map(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        progress: Progress = ...,
        **each: Any,
    ) -> AsyncIterator[Prediction | Exception]: ...
    def map(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        on_error: Literal["raise", "return"] = "raise",
        progress: Progress = None,
        **each: Any,
    ) -> AsyncIterator[Prediction | Exception]:
        """As `Client.map`; inputs may come from an async iterable too."""
        checked(concurrency, on_error)
        return map_in_tasks(
            lambda body: self.predict(body, **each),
            inputs,
            concurrency,
            returns=on_error == "return",
            progress=progress,
        )

    async def is_ready(self, *, timeout_s: float = 5.0) -> bool:
        """As `Client.is_ready`."""
        for target in self._settings.targets:
            if await self._is_ready(target, timeout_s):
                return True
        return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._exchange.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _retry(self, call: Call, first: RetryableError) -> Prediction:
        check = raising_first(first)
        async for attempt in tenacity.AsyncRetrying(retry=RETRY, wait=backoff, stop=call.stop(), reraise=True):
            with attempt:
                check()
                return await self._attempt(call)
        raise AssertionError("tenacity raises the last error")

    async def _attempt(self, call: Call) -> Prediction:
        target = await self._pick(call)
        with self._settings.targets.asked(target):
            try:
                reply = await self._exchange.post(target.predictions_url, call.content, call.sent(), call.timeouts())
            except (Unreachable, Untrusted, OutOfTime) as e:
                raise call.unanswered(e, target) from e
        return call.prediction(reply, target)

    async def _pick(self, call: Call) -> Target:
        targets = self._settings.targets
        while True:
            target, must_be_asked = targets.pick(call.tried)
            if not must_be_asked:
                return target
            if await self._is_ready(target, min(CHECK_S, call.left_s)):
                targets.succeeded(target)
            else:
                targets.failed(target)

    async def _is_ready(self, target: Target, timeout_s: float) -> bool:
        question = readiness.is_ready(self._settings.model)
        try:
            path = next(question)
            while True:
                reply = await self._exchange.get(target.base_url + path, timeout_s)
                path = question.send((reply.status, reply.content))
        except StopIteration as answer:
            return bool(answer.value)
        except (Unreachable, Untrusted, OutOfTime):
            return False
