"""What carries the requests of a bulk prediction: aiohttp where it is installed, which takes a quarter of httpx's time.

On the cores of the server every millisecond of the client is one that the model lacks.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from smartbatch.client.calls import OutOfTime, Reply, Timeouts, Unreachable, Untrusted
from smartbatch.client.exchange import (
    KEEP_ALIVE_S,
    AsyncExchange,
    HttpxExchange,
    is_about_certificates,
    trusted_context,
)
from smartbatch.server.ports import is_loopback


def bulk_exchange(urls: Sequence[str], verify: bool | str) -> AsyncExchange:
    """The fastest there is; made within an event loop."""
    trust_env = not any(is_loopback(urlsplit(url).hostname or "") for url in urls)
    if importlib.util.find_spec("aiohttp") is None:
        return HttpxExchange(verify=verify, trust_env=trust_env)
    return AiohttpExchange(verify=verify, trust_env=trust_env)


class AiohttpExchange:
    """One session of aiohttp's."""

    def __init__(self, *, verify: bool | str, trust_env: bool) -> None:
        import aiohttp

        context: ssl.SSLContext | bool = trusted_context(verify) if isinstance(verify, str) else verify
        connector = aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=trust_env,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": "smartbatch", "Accept-Encoding": "identity"},
        )

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], timeouts: Timeouts) -> Reply:
        """Send a body."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=timeouts.total_s, sock_connect=timeouts.connect_s)
        with _told():
            async with self._session.post(
                url, data=content, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return Reply(response.status, response.headers, await response.read())

    async def get(self, url: str, timeout_s: float) -> Reply:
        """Ask a question."""
        import aiohttp

        with _told():
            async with self._session.get(
                url, timeout=aiohttp.ClientTimeout(total=timeout_s), allow_redirects=False
            ) as response:
                return Reply(response.status, response.headers, await response.read())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()


@contextmanager
def _told() -> Iterator[None]:
    """aiohttp's errors as the client's."""
    import aiohttp

    try:
        yield
    except aiohttp.ConnectionTimeoutError as e:
        raise Unreachable("no connection in the time for one") from e
    except (TimeoutError, asyncio.TimeoutError) as e:  # two classes before Python 3.11
        raise OutOfTime from e
    except (aiohttp.ClientSSLError, ssl.SSLError) as e:
        if is_about_certificates(e):
            raise Untrusted(str(e)) from e
        raise Unreachable(str(e)) from e
    except (aiohttp.ClientError, OSError) as e:
        raise Unreachable(str(e)) from e
