"""What a bench says while it runs."""

from __future__ import annotations

import sys
import time

STARTED = time.monotonic()


def say(text: str) -> None:
    """Progress, on stderr, with the time since the start."""
    print(f"[bench {time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)
