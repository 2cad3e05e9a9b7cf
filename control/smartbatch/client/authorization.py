"""The token that a server asks for: one for good, or one that is read anew when it has expired."""

from __future__ import annotations

from collections.abc import Callable

Token = str | Callable[[], str | None] | None
"""A token; or what gives the one that holds now, called at first and whenever a server refuses the last one."""

REFUSED = "token_refused"
"""The code of our frontend's refusal."""
_STOCK = "Token Authorization failed"
"""How TorchServe's own begins."""


class Authorization:
    """A token, and how to get a fresh one."""

    def __init__(self, token: Token) -> None:
        self._renew = token if callable(token) else None
        self._token = None if callable(token) else token
        self._was_read = self._renew is None

    def headers(self) -> dict[str, str]:
        """What a request carries."""
        if not self._was_read:
            self.renew()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def renew(self) -> bool:
        """Ask for the token that holds now; whether it is another one than before."""
        if self._renew is None:
            return False
        before, self._token = self._token, self._renew()
        self._was_read = True
        return self._token != before


def is_refused(status: int, code: str, message: str) -> bool:
    """Whether an error answer is about the token."""
    return status == 400 and (code == REFUSED or message.startswith(_STOCK))
