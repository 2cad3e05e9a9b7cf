"""TorchServe's tokens: one for inference, one for management, and the API key that renews either."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from smartbatch.errors import NotRunningError, UsageError
from smartbatch.remote.state import KEY_FILE, ServerState


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What TorchServe wrote to key_file.json at start or at the last renewal."""

    inference: str
    inference_expires: str
    """ISO 8601, UTC."""
    management: str
    management_expires: str
    api: str
    """Renews the other two; never expires while the server runs."""


def read_tokens(key_file: Path) -> Tokens:
    """Read TorchServe's key file.

    Raises:
        NotRunningError: when it is missing, not readable by this user, or holds something else.
    """
    try:
        keys = json.loads(key_file.read_text(encoding="utf-8"))
    except OSError as e:
        raise NotRunningError(f"no tokens: cannot read {key_file} ({e.strerror})") from e
    except ValueError as e:
        raise NotRunningError(f"no tokens: {key_file} is not what TorchServe writes ({e})") from e
    try:
        return Tokens(
            inference=keys["inference"]["key"],
            inference_expires=keys["inference"]["expiration time"],
            management=keys["management"]["key"],
            management_expires=keys["management"]["expiration time"],
            api=keys["API"]["key"],
        )
    except (KeyError, TypeError) as e:
        raise NotRunningError(f"no tokens: {key_file} is not what TorchServe writes (no {e})") from e


def is_expired(expires: str, now: float | None = None) -> bool:
    """Whether that moment (ISO 8601, UTC) is past; fractions of its last second are forgone."""
    moment = datetime.strptime(expires[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return moment.timestamp() <= (time.time() if now is None else now)


def living_tokens(state: ServerState) -> Tokens:
    """The tokens of a server started here, the expired ones renewed.

    Raises:
        UsageError: when it runs without token authorization.
    """
    tokens = read_tokens(_key_file(state))
    expired = [
        kind
        for kind, expires in (("inference", tokens.inference_expires), ("management", tokens.management_expires))
        if is_expired(expires)
    ]
    return rotate_tokens(state, expired) if expired else tokens


def rotate_tokens(state: ServerState, kinds: Sequence[str]) -> Tokens:
    """Renew the tokens named, the old ones being refused from then on, and return all of them."""
    from smartbatch.remote.management import ManagementClient

    key_file = _key_file(state)
    api_key = read_tokens(key_file).api
    with ManagementClient.for_state(state) as client:
        for kind in kinds:
            client.new_token(kind, api_key)
    return read_tokens(key_file)


def check_kind(kind: str, allowed: Sequence[str]) -> None:
    """Raise a UsageError unless `kind` is one of `allowed`."""
    if kind not in allowed:
        raise UsageError(f"--type must be one of {', '.join(allowed)}, got {kind!r}")


def _key_file(state: ServerState) -> Path:
    if not state.token_auth:
        raise UsageError(f"{state.inference_url} runs without tokens: start it with --token-auth")
    return Path(state.run_dir) / KEY_FILE
