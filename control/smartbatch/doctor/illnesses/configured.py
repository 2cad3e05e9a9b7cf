"""What was configured, and does not hold: for a model whose archive says otherwise."""

from __future__ import annotations

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis
from smartbatch.doctor.surroundings import BEATEN


def beaten(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """A key of config.properties that somebody changed, and that model-config.yaml beats."""
    effective = {
        "job_queue_size": evidence.queue_capacity,
        "default_response_timeout": evidence.status.response_timeout_s,
    }
    wrong = {key: said for key, said in evidence.changed_properties.items() if effective[key] not in (0, said)}
    if not wrong:
        return None
    told = ", ".join(f"`{key}={said}` there, {effective[key]} here" for key, said in wrong.items())
    options = " ".join(f"--set {BEATEN[key]}={said}" for key, said in wrong.items())
    return Finding(
        illness="config-beaten",
        model=evidence.model,
        severity=Severity.NOTE,
        share=0.0,
        evidence=f"config.properties was changed and does not hold: {told}",
        consequence="an archive's model-config.yaml, and what a registration asks for, beat config.properties",
        cure=f"smartbatch retune {evidence.model} {options}",
    )
