"""What several illnesses ask: whether requests wait, and what the model of the server says of a change."""

from __future__ import annotations

import dataclasses
from typing import Any

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Gain
from smartbatch.doctor.gain import Prognosis

SOMETHING = 1.1
"""By what factor a figure must get better: half of the model's predictions of a rate are off by that."""


def retuned(prognosis: Prognosis | None, **changed: Any) -> Gain | None:
    """Of a setting with some of its fields changed; None where that is nothing, or there is no model of the server."""
    if prognosis is None:
        return None
    setting = dataclasses.replace(prognosis.observed.setting, **changed)
    return prognosis.gain(setting) if prognosis.improvement(setting) >= SOMETHING else None


def waits(evidence: Evidence) -> bool:
    """Requests wait for a worker longer than the delay explains."""
    if evidence.queue_s is None:
        return False
    return evidence.queue_s > max(0.002, 0.5 * evidence.batch_s, 1.5 * evidence.status.max_batch_delay_ms / 1000)
