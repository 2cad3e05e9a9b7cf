"""What both clients are made of: servers, model, token, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smartbatch.client.authorization import Authorization, Token
from smartbatch.client.bodies import encode_body
from smartbatch.client.calls import Call, request_headers
from smartbatch.client.targets import Targets
from smartbatch.errors import UsageError
from smartbatch.server.ports import is_loopback


class ClientSettings:
    """The part of a client that does no I/O."""

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        token: Token,
        *,
        deadline_s: float,
        connect_timeout_s: float,
    ) -> None:
        if connect_timeout_s <= 0:
            raise UsageError(f"connect_timeout_s must be above 0 s, got {connect_timeout_s:g} s")
        self.model = model
        self.targets = Targets(base_url, model)
        self._authorization = Authorization(token)
        self._deadline_s = deadline_s
        self._connect_timeout_s = connect_timeout_s

    @property
    def trust_env(self) -> bool:
        """Whether variables name proxies and certificates for us: not on the way to this very machine."""
        return not any(is_loopback(host) for host in self.targets.hosts)

    def verify(self, wanted: bool | str) -> bool | str:
        """What to check certificates against; nothing where there are none, for reading the system's takes a while."""
        is_tls = self.trust_env or any(target.base_url.startswith("https:") for target in self.targets)
        return wanted if is_tls else False

    def call(
        self,
        body: Any,
        *,
        deadline_s: float | None,
        output: str | None,
        accept: str | None,
        headers: Mapping[str, str] | None,
    ) -> Call:
        """A call that begins now."""
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        content, content_type = encode_body(body)
        sent = request_headers(content_type, deadline_s, output, accept, headers)
        return Call(content, sent, deadline_s, self._connect_timeout_s, self.targets, self._authorization)
