"""What a retune is to change, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from smartbatch.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class RetuneSettings:
    """What to change, and how long each step may take. None keeps what the model has.

    Raises:
        UsageError: on a value below its minimum, or nothing to change.
    """

    model: str
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    """At least 1: at 0 TorchServe caps batches at 2."""
    workers: int | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Keys of model-config.yaml, as text."""
    measure_again: bool = False
    """Forget what the forward was measured at; the new version's first worker measures again. A change by itself."""
    ready_timeout_s: float = 120.0
    """Until the new version's workers must be READY."""
    drain_timeout_s: float = 120.0
    """For the old version's last answers."""
    lock_timeout_s: float = 600.0
    """For another retune to finish."""

    def __post_init__(self) -> None:
        wanted = {name: getattr(self, name) for name in ("batch_size", "max_batch_delay_ms", "workers")}
        if not self.measure_again and not self.overrides and all(value is None for value in wanted.values()):
            raise UsageError("nothing to change: give --batch-size, --max-delay-ms, --workers or --set")
        for name, value in wanted.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetuneReport:
    """What is served now, and what was before."""

    model: str
    version: str
    batch_size: int
    max_batch_delay_ms: int
    workers: int
    old_version: str
    changed: bool
    canary: str
    seconds: float
    ready_seconds: float
    """Until the new version took over."""

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def text(self) -> str:
        """One line for people."""
        what = f"batches of up to {self.batch_size} within {self.max_batch_delay_ms} ms, {self.workers} worker(s)"
        if not self.changed:
            return f"{self.model} {self.version} has {what} already"
        return (
            f"{self.model} {self.version} serves {what}; it replaced {self.old_version} "
            f"after {self.ready_seconds:.1f} s ({self.canary}), all done after {self.seconds:.1f} s"
        )
