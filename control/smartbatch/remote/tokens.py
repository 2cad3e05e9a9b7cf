"""TorchServe's tokens: one for inference, one for management, and the API key that renews either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smartbatch.errors import UsageError
from smartbatch.remote.key_file import Tokens, is_expired, read_tokens
from smartbatch.remote.state import KEY_FILE, ServerState


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
