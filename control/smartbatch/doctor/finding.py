"""What an illness says: figures, what follows from them, what to do, and what that gains."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

ON_A_RUNNING_SERVER = ("smartbatch retune ", "smartbatch scale ")
"""Beginnings of the cures that change one, under load and without losing a request."""


class Severity(IntEnum):
    """How bad; a finding of a higher one stands above."""

    NOTE = 0
    """Good to know; nothing is lost today."""
    SLOW = 1
    """Latency or throughput is given away."""
    FAILING = 2
    """Requests fail, or nothing keeps strangers out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """What a cure is predicted to bring."""

    figure: str
    """What changes, with its unit: "p50, ms" or "requests/s"."""
    before: float
    after: float
    low: float
    """`after` is between this and `high` as often as the model of the server is that right: docs/tuning.md."""
    high: float

    def text(self) -> str:
        """One line."""
        before, after, low, high = map(_short, (self.before, self.after, self.low, self.high))
        return f"{self.figure}: {before} → {after} ({low} to {high})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One illness of one model, or of the server."""

    illness: str
    """Its name; docs/doctor.md explains each."""
    model: str | None
    """None: of the server."""
    severity: Severity
    share: float
    """Of requests or of their time, how much it costs, from 0 to 1: the order among findings of one severity."""
    evidence: str
    consequence: str
    cure: str
    """A command to type, or what to change where there is none."""
    gain: Gain | None = None
    """None where the model of the server cannot say."""


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
