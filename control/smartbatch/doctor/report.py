"""What was found, worst first, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import ON_A_RUNNING_SERVER, Finding, Severity
from smartbatch.doctor.gain import Prognosis
from smartbatch.doctor.illnesses import OF_MODELS, OF_SERVERS, OF_SETTINGS

EXIT_CODES = {Severity.NOTE: 0, Severity.SLOW: 8, Severity.FAILING: 9}
"""Of the command, by the worst finding."""


@dataclass(frozen=True, slots=True)
class Report:
    """Of one look at a server."""

    evidence: Sequence[Evidence]
    findings: Sequence[Finding]

    @property
    def exit_code(self) -> int:
        """0 where nothing is lost."""
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        models = [
            {
                "model": one.model,
                "version": one.status.version,
                "seconds": round(one.seconds, 1),
                "since_start": one.is_since_start,
                "requests": round(one.requests),
                "requests_per_s": one.view.rps,
                "p50_s": one.view.p50_s,
                "p95_s": one.view.p95_s,
                "avg_batch_size": one.view.avg_batch_size,
                "batch_size": one.status.batch_size,
                "max_batch_delay_ms": one.status.max_batch_delay_ms,
                "workers": len(one.status.workers),
            }
            for one in self.evidence
        ]
        findings = [{**asdict(finding), "severity": finding.severity.name.lower()} for finding in self.findings]
        return {"models": models, "findings": findings, "healthy": not self.exit_code}

    def text(self) -> str:
        """For people."""
        lines = [_summary(one) for one in self.evidence]
        ill = {finding.model for finding in self.findings if finding.severity > Severity.NOTE}
        lines += [f"{one.model} is healthy." for one in self.evidence if one.model not in ill]
        for number, finding in enumerate(self.findings, 1):
            whose = "" if finding.model is None else f"{finding.model}: "
            lines += [
                "",
                f"{number}. {whose}{finding.illness} ({finding.severity.name.lower()})",
                f"   seen   {finding.evidence}",
                f"   so     {finding.consequence}",
                f"   do     {finding.cure}",
            ]
            if finding.gain is not None:
                lines.append(f"   gain   {finding.gain.text()}, predicted")
        return "\n".join(lines)


def examine(evidence: Sequence[Evidence], named: str = "") -> Report:
    """Look for every illness.

    Args:
        evidence: of each model.
        named: options that name the server, for the commands that are printed.
    """
    findings = [finding for one in evidence for finding in _of_model(one)]
    if evidence:
        findings += [found for examine_it in OF_SERVERS.values() if (found := examine_it(evidence[0].server))]
    findings = [replace(finding, cure=_addressed(finding.cure, named)) for finding in findings]
    return Report(evidence, sorted(findings, key=lambda finding: (-finding.severity, -finding.share)))


def _of_model(evidence: Evidence) -> list[Finding]:
    prognosis = Prognosis.of(evidence)
    findings = [found for examine_it in OF_MODELS.values() if (found := examine_it(evidence, prognosis))]
    if all(finding.severity is not Severity.SLOW for finding in findings):
        better = OF_SETTINGS(evidence, prognosis)
        findings += [better] if better is not None else []
    return findings


def _addressed(cure: str, named: str) -> str:
    """A command that changes a running server, with what names that server."""
    return f"{cure} {named}" if named and cure.startswith(ON_A_RUNNING_SERVER) else cure


def _summary(one: Evidence) -> str:
    status = one.status
    head = f"{one.model} {status.version}: batches of up to {status.batch_size} within {status.max_batch_delay_ms} ms, "
    head += f"{len(status.workers)} worker(s)"
    if one.requests < 1:
        return f"{head}; no request since the server started: --probe sends some"
    when = "since the server started" if one.is_since_start else f"in {one.seconds:.0f} s"
    said = f"{head}; {one.requests:.0f} requests {when}, {one.view.rps:.1f}/s"
    if one.view.p50_s is not None and one.view.p95_s is not None:
        said += f", p50 {1000 * one.view.p50_s:.0f} ms, p95 {1000 * one.view.p95_s:.0f} ms"
    if one.view.avg_batch_size is not None:
        said += f", {one.view.avg_batch_size:.1f} requests a batch"
    return said
