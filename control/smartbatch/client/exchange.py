"""HTTP by httpx: one request and its whole answer, with a time to connect and a time for all of it.

httpx2 is httpx under the name by which it is maintained.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx2 as httpx

from smartbatch.client.calls import OutOfTime, Reply, Timeouts, Unreachable, Untrusted
from smartbatch.errors import UsageError

KEEP_ALIVE_S = 30.0
"""Less than any server of ours lets a connection be silent, so that it is not the server who ends it."""


class AsyncExchange(Protocol):
    """What carries an AsyncClient's requests.

    Raises:
        Unreachable, Untrusted, OutOfTime: by both methods, instead of what the library below them raises.
    """

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], timeouts: Timeouts) -> Reply:
        """Send a body."""

    async def get(self, url: str, timeout_s: float) -> Reply:
        """Ask a question."""

    async def aclose(self) -> None:
        """Close the connections."""


class SyncExchange:
    """For threads."""

    def __init__(self, *, verify: bool | str, trust_env: bool) -> None:
        self._client = httpx.Client(
            verify=_trusted(verify, trust_env), trust_env=trust_env, limits=_LIMITS, headers=_HEADERS
        )

    def post(self, url: str, content: bytes, headers: Mapping[str, str], timeouts: Timeouts) -> Reply:
        """Send a body."""
        until = time.monotonic() + timeouts.total_s
        with (
            _told(),
            self._client.stream(
                "POST", url, content=content, headers=dict(headers), timeout=_of_httpx(timeouts)
            ) as response,
        ):
            return _reply(response, b"".join(_in_time(response.iter_bytes(), until)))

    def get(self, url: str, timeout_s: float) -> Reply:
        """Ask a question."""
        with _told():
            response = self._client.get(url, timeout=timeout_s)
        return _reply(response, response.content)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class HttpxExchange:
    """For tasks."""

    def __init__(self, *, verify: bool | str, trust_env: bool) -> None:
        self._client = httpx.AsyncClient(
            verify=_trusted(verify, trust_env), trust_env=trust_env, limits=_LIMITS, headers=_HEADERS
        )

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], timeouts: Timeouts) -> Reply:
        """Send a body."""
        until = time.monotonic() + timeouts.total_s
        with _told():
            async with self._client.stream(
                "POST", url, content=content, headers=dict(headers), timeout=_of_httpx(timeouts)
            ) as response:
                parts = [part async for part in _in_time_async(response.aiter_bytes(), until)]
                return _reply(response, b"".join(parts))

    async def get(self, url: str, timeout_s: float) -> Reply:
        """Ask a question."""
        with _told():
            response = await self._client.get(url, timeout=timeout_s)
        return _reply(response, response.content)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_S)
_HEADERS = {"User-Agent": "smartbatch", "Accept-Encoding": "identity"}
"""Answers are not compressed: what TorchServe would do about it costs more than a local network saves."""


def _of_httpx(timeouts: Timeouts) -> httpx.Timeout:
    return httpx.Timeout(timeouts.total_s, connect=timeouts.connect_s)


def _in_time(parts: Iterator[bytes], until: float) -> Iterator[bytes]:
    """An answer's parts. httpx's timeout is of each: an answer that drips would never be late."""
    for part in parts:
        if time.monotonic() > until:
            raise OutOfTime
        yield part


async def _in_time_async(parts: AsyncIterator[bytes], until: float) -> AsyncIterator[bytes]:
    async for part in parts:
        if time.monotonic() > until:
            raise OutOfTime
        yield part


def _reply(response: httpx.Response, content: bytes) -> Reply:
    return Reply(response.status_code, response.headers, content)


def trusted_context(verify: str) -> ssl.SSLContext:
    """A context that trusts what a file, or a folder, of certificates says."""
    is_folder = Path(verify).is_dir()
    return ssl.create_default_context(cafile=None if is_folder else verify, capath=verify if is_folder else None)


def _trusted(verify: bool | str, trust_env: bool) -> bool | ssl.SSLContext:
    if isinstance(verify, str):
        return trusted_context(verify)
    return verify


@contextmanager
def _told() -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except httpx.ConnectTimeout as e:
        raise Unreachable("no connection in the time for one") from e
    except httpx.TimeoutException as e:
        raise OutOfTime from e
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol) as e:
        raise UsageError(f"the request cannot be sent: {e}") from e
    except httpx.TransportError as e:
        if is_about_certificates(e):
            raise Untrusted(str(e)) from e
        raise Unreachable(str(e)) from e


def is_about_certificates(error: BaseException) -> bool:
    """Whether TLS is what failed, be it behind what other errors."""
    seen: list[BaseException] = []
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, ssl.SSLError) and not isinstance(each, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return True  # those two are a connection that ended, as one does without TLS
        seen.append(each)
        within = (each.__cause__, each.__context__, *each.args)
        left += [one for one in within if isinstance(one, BaseException) and one not in seen]
    return False
