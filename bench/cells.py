"""What is measured: one contestant under one kind of body, in one of the two tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of a table."""

    title: str
    backend: str
    """Key of `backends.start`."""
    model: str
    workload: str
    table: str
    """documented or identical."""

    @property
    def key(self) -> str:
        """Unique, and stable for peers.json."""
        return f"{self.table}:{self.title}:{self.workload}"


SMARTBATCH = "SmartBatch"
BF16 = "SmartBatch bf16"
STOCK = "TorchServe image_classifier"
DOCUMENTED_PEERS = ("LitServe", "mosec", "BentoML", "Ray Serve")
IDENTICAL_PEERS = ("FastAPI", *DOCUMENTED_PEERS)

CELLS = (
    Cell(SMARTBATCH, "smartbatch", "smartbatch", "jpeg375", "documented"),
    Cell(STOCK, "stock", "stock", "jpeg375", "documented"),
    *(Cell(peer, f"{peer}/documented", "", "jpeg375", "documented") for peer in DOCUMENTED_PEERS),
    Cell(BF16, "smartbatch_bf16", "smartbatch_bf16", "jpeg375", "documented"),
    Cell(SMARTBATCH, "smartbatch", "smartbatch", "json", "documented"),
    Cell(BF16, "smartbatch_bf16", "smartbatch_bf16", "json", "documented"),
    Cell("FastAPI reference", "FastAPI/documented", "", "json", "documented"),
    Cell(SMARTBATCH, "smartbatch", "smartbatch", "jpeg224", "documented"),
    Cell(BF16, "smartbatch_bf16", "smartbatch_bf16", "jpeg224", "documented"),
    Cell(BF16, "smartbatch_bf16", "smartbatch_bf16", "npy", "documented"),
    Cell(SMARTBATCH, "smartbatch", "smartbatch", "npy", "identical"),
    Cell("TorchServe, its own configuration", "plain", "smartbatch", "npy", "identical"),
    *(Cell(peer, f"{peer}/identical", "", "npy", "identical") for peer in IDENTICAL_PEERS),
)

_LEFT_OUT = ("plain", "Ray Serve/documented", *(f"{peer}/identical" for peer in IDENTICAL_PEERS if peer != "mosec"))
QUICK = tuple(
    cell
    for cell in CELLS
    if cell.backend not in _LEFT_OUT
    and cell.workload != "jpeg224"
    and (cell.title != BF16 or cell.workload == "jpeg375")
)
"""What a quick run measures: enough for the ratios that the project promises. Of the peers it leaves out Ray Serve and,
around the identical forward, all but mosec, which was the fastest there in every whole run."""

BARE = "identical:bare forward loop:none"


def ratios(rates: dict[str, float]) -> dict[str, float | None]:
    """SmartBatch ÷ the other, for each comparison whose two sides were measured."""

    def rate(title: str, workload: str, table: str = "documented") -> float | None:
        return rates.get(f"{table}:{title}:{workload}")

    def fastest(peers: tuple[str, ...], workload: str, table: str) -> float | None:
        measured = [value for peer in peers if (value := rate(peer, workload, table))]
        return max(measured, default=None)

    own_npy = rate(SMARTBATCH, "npy", "identical")
    reference = rate("FastAPI reference", "json")
    return {
        "stock_jpeg_fp32": _divide(rate(SMARTBATCH, "jpeg375"), rate(STOCK, "jpeg375")),
        "stock_jpeg_bf16": _divide(rate(BF16, "jpeg375"), rate(STOCK, "jpeg375")),
        "fastapi_json": _divide(rate(SMARTBATCH, "json"), reference),
        "fastapi_same_image": _divide(own_npy, reference),
        "fastapi_same_image_jpeg": _divide(rate(SMARTBATCH, "jpeg224"), reference),
        "fastapi_json_bf16": _divide(rate(BF16, "json"), reference),
        "fastapi_same_image_bf16": _divide(rate(BF16, "npy"), reference),
        "fastapi_same_image_jpeg_bf16": _divide(rate(BF16, "jpeg224"), reference),
        "fastest_peer_identical_forward": _divide(own_npy, fastest(IDENTICAL_PEERS, "npy", "identical")),
        "fastest_peer_as_documented": _divide(
            rate(SMARTBATCH, "jpeg375"), fastest(DOCUMENTED_PEERS, "jpeg375", "documented")
        ),
        "bare_forward": _divide(own_npy, rates.get(BARE)),
    }


def _divide(own: float | None, other: float | None) -> float | None:
    return round(own / other, 3) if own and other else None
