"""TorchServe's key file: its tokens, and until when they hold."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from smartbatch.errors import NotRunningError


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
