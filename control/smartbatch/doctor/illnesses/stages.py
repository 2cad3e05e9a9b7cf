"""Where a batch's time goes, when that is not the model."""

from __future__ import annotations

from smartbatch.doctor.evidence import Evidence
from smartbatch.doctor.finding import Finding, Severity
from smartbatch.doctor.gain import Prognosis

MOST = 0.5
"""Of a batch's time."""
WORKING = 0.3
"""Of the time that workers compute: below, nobody waits for it."""


def decode_bound(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Reading bodies takes longer than the model."""
    share = _share(evidence, "decode")
    if share < MOST:
        return None
    pictures = evidence.config("image_resize") is not None and evidence.config("inputs") is None
    how = (
        "send pictures no larger than the model is shown, and tensors as .npy or safetensors instead of JSON"
        if pictures
        else "send tensors as .npy, safetensors or binary tensors of /v2 instead of JSON"
    )
    cure = f"{how} (docs/formats.md); `smartbatch stress --format npy` shows what that gives"
    on_gpu = evidence.worker is not None and evidence.worker["device"].startswith("cuda")
    if on_gpu and pictures and evidence.config("image_decoder") == "cpu":
        there = f"smartbatch retune {evidence.model} --set image_decoder=gpu"
        cure = f"{there}, where they are JPEGs (docs/batching.md#on-a-gpu); or {cure}"
    return Finding(
        illness="decode-bound",
        model=evidence.model,
        severity=Severity.SLOW,
        share=share,
        evidence=f"reading the bodies is {share:.0%} of a batch's {1000 * evidence.batch_s:.1f} ms",
        consequence="no batch size and no faster model helps: what is sent costs more than what is computed",
        cure=cure,
    )


def response_bound(evidence: Evidence, prognosis: Prognosis | None) -> Finding | None:
    """Writing answers takes longer than the model."""
    share = _share(evidence, "encode")
    if share < MOST:
        return None
    return Finding(
        illness="response-bound",
        model=evidence.model,
        severity=Severity.SLOW,
        share=share,
        evidence=f"writing the answers is {share:.0%} of a batch's {1000 * evidence.batch_s:.1f} ms",
        consequence="the model waits for numbers to be spelled",
        cure="ask for bytes, `Accept: application/x-npy`, or for the best classes alone, `X-SmartBatch-Output: topk`",
    )


def _share(evidence: Evidence, stage: str) -> float:
    """Of a batch's time; 0 where workers are idle most of the time."""
    if evidence.busy < WORKING or not evidence.batch_s:
        return 0.0
    return evidence.view.stage_s.get(stage, 0.0) / evidence.batch_s
