"""The client for threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from smartbatch.client.exchange import SyncExchange
from smartbatch.client.mapping import DEFAULT_CONCURRENCY, checked, map_in_threads
from smartbatch.client.prediction import Prediction
from smartbatch.client.progress import Progress
from smartbatch.client.settings import ClientSettings
from smartbatch.client.targets import CHECK_S, Target


class Client:
    """Sends requests to one model; may be shared by threads.

    A 503 (queue full, draining) and a connection that fails are retried: at once at another server, where there is one
    that takes requests, else with exponential backoff and full jitter and no sooner than Retry-After says, as long as
    the deadline allows. Every attempt carries the deadline, so that the server drops a request whose caller has given
    up.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        token: Token = None,
        *,
        deadline_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        verify: bool | str = True,
    ) -> None:
        """Connect to nobody yet.

        Args:
            base_url: where the server is; of several each request goes to the one that owes this client the fewest
                answers, and one that fails is set aside for a while.
            model: its name, or `name/version`.
            token: the inference token; or a function that gives the one that holds now, asked again when it is refused.
            deadline_s: of every call, from its beginning until its answer, all attempts together.
            connect_timeout_s: how long each attempt may wait for a connection.
            verify: whether to check a TLS certificate, or a file or folder of those to trust.

        Raises:
            UsageError: an address without http:// or https://, or a time that is not above 0.
        """
        self._settings = ClientSettings(
            base_url, model, token, deadline_s=deadline_s, connect_timeout_s=connect_timeout_s
        )
        self._exchange = SyncExchange(verify=self._settings.verify(verify), trust_env=self._settings.trust_env)

    def predict(
        self,
        body: Any,
        *,
        deadline_s: float | None = None,
        output: str | None = None,
        accept: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Send one request and wait for its answer.

        Args:
            body: bytes as they are; a Path by its extension; a numpy array or tensor as .npy; a Pillow image as PNG; a
                str, or a list of them, as text; lists and numbers as {"data": ...}; a dict of arrays as named inputs,
                in .npz; any other dict as JSON.
            deadline_s: from now until the answer, all attempts together; None takes the client's.
            output: what of the model's answer is wanted: `raw`, `topk`, `labels`, `boxes`, `mask`, `embedding`, `text`.
            accept: the form of the answer: `json`, `npy`, `npz` or `safetensors`.
            headers: sent besides the client's own, and beating them.

        Raises:
            DeadlineError: no answer in time, and no refusal either.
            NotRunningError: no server answered, up to the deadline.
            ModelNotReadyError: the server knows no such model.
            RequestRefusedError: an error status; a 503 only after retries up to the deadline.
            UsageError: an output or a form of answers that there is not.
            TypeError: a body that cannot be sent.
        """
        call = self._settings.call(body, deadline_s=deadline_s, output=output, accept=accept, headers=headers)
        with call.told_plainly():
            try:
                return self._attempt(call)
            except RetryableError as first:
                return self._retry(call, first)

    @overload
    def map(
        self,
        inputs: Iterable[Any],
        *,
        concurrency: int = ...,
        on_error: Literal["raise"] = ...,
        progress: Progress = ...,
        **each: Any,
    ) -> Iterator[Prediction]: ...
    @overload
    def map(
        self,
        inputs: Iterable[Any],
        *,
        concurrency: int = ...,
        on_error: Literal["return"],
        progress: Progress = ...,
        **each: Any,
    ) -> Iterator[Prediction | Exception]: ...
    def map(
        self,
        inputs: Iterable[Any],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        on_error: Literal["raise", "return"] = "raise",
        progress: Progress = None,
        **each: Any,
    ) -> Iterator[Prediction | Exception]:
        """Predict many, several at a time; answers come in the order of the inputs.

        Inputs are taken as they are needed, never more than twice `concurrency` before the answers that were taken.

        Args:
            inputs: bodies, as `predict` takes them.
            concurrency: how many requests are out at once.
            on_error: `raise` ends the map with the first error, in the order of the inputs; `return` gives each error
                in the place of its answer.
            progress: True draws a bar on stderr, with rate, errors and time left (a line now and then where that is no
                terminal); or a function that is told after each answer how many are done, and how many of them failed.
            each: what `predict` takes besides the body, for every one.

        Raises:
            UsageError: at once, for a concurrency below 1 or another `on_error`.
        """
        checked(concurrency, on_error)
        return map_in_threads(
            lambda body: self.predict(body, **each),
            inputs,
            concurrency,
            returns=on_error == "return",
            progress=progress,
        )

    def is_ready(self, *, timeout_s: float = 5.0) -> bool:
        """Whether a server would answer for the model now: one of several is enough.

        Of TorchServe's own frontend (`SMARTBATCH_FRONTEND=stock`) only that it lives is known.
        """
        return any(self._is_ready(target, timeout_s) for target in self._settings.targets)

    def close(self) -> None:
        """Close the connections."""
        self._exchange.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _retry(self, call: Call, first: RetryableError) -> Prediction:
        check = raising_first(first)
        for attempt in tenacity.Retrying(retry=RETRY, wait=backoff, stop=call.stop(), reraise=True):
            with attempt:
                check()
                return self._attempt(call)
        raise AssertionError("tenacity raises the last error")

    def _attempt(self, call: Call) -> Prediction:
        target = self._pick(call)
        with self._settings.targets.asked(target):
            try:
                reply = self._exchange.post(target.predictions_url, call.content, call.sent(), call.timeouts())
            except (Unreachable, Untrusted, OutOfTime) as e:
                raise call.unanswered(e, target) from e
        return call.prediction(reply, target)

    def _pick(self, call: Call) -> Target:
        targets = self._settings.targets
        while True:
            target, must_be_asked = targets.pick(call.tried)
            if not must_be_asked:
                return target
            if self._is_ready(target, min(CHECK_S, call.left_s)):
                targets.succeeded(target)
            else:
                targets.failed(target)

    def _is_ready(self, target: Target, timeout_s: float) -> bool:
        question = readiness.is_ready(self._settings.model)
        try:
            path = next(question)
            while True:
                reply = self._exchange.get(target.base_url + path, timeout_s)
                path = question.send((reply.status, reply.content))
        except StopIteration as answer:
            return bool(answer.value)
        except (Unreachable, Untrusted, OutOfTime):
            return False
