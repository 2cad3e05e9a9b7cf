"""What is measured: one contestant under one kind of body, in one of the tables."""

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
    """documented, identical, expert or goodput."""

    @property
    def key(self) -> str:
        """Unique, and stable for peers.json."""
        return f"{self.table}:{self.title}:{self.workload}"

    @property
    def precision(self) -> str:
        """One of PRECISIONS: what its forward is to compute in."""
        return next((each for each in PRECISIONS[1:] if self.title.endswith(f" {each}")), PRECISIONS[0])


SMARTBATCH = "SmartBatch"
BF16 = "SmartBatch bf16"
STOCK = "TorchServe image_classifier"
DOCUMENTED_PEERS = ("LitServe", "mosec", "BentoML", "Ray Serve")
IDENTICAL_PEERS = ("FastAPI", *DOCUMENTED_PEERS)
EXPERT_PEERS = ("TorchServe", "LitServe", "mosec", "BentoML")
EXPERT_TABLES = ("expert", "goodput")
PRECISIONS = ("fp32", "bf16")
OBJECTIVE_MS = 250.0
"""Of goodput: a request's p95."""


def in_precision(title: str, precision: str) -> str:
    """A contestant's name in a table that has it in several."""
    return title if precision == "fp32" else f"{title} {precision}"


def _expert_cells(table: str, precision: str) -> tuple[Cell, ...]:
    """SmartBatch and each peer, on JPEGs; one TorchServe has all of an expert's models."""
    own = "smartbatch" if precision == "fp32" else f"smartbatch_{precision}"
    return (
        Cell(in_precision(SMARTBATCH, precision), own, own, "jpeg375", table),
        *(
            Cell(
                in_precision(peer, precision),
                f"{peer}/experts" if peer == "TorchServe" else f"{peer}/{table} {precision}",
                f"{table}_{precision}",
                "jpeg375",
                table,
            )
            for peer in EXPERT_PEERS
        ),
    )


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
    *(cell for precision in PRECISIONS for cell in _expert_cells("expert", precision)),
    *(cell for precision in PRECISIONS for cell in _expert_cells("goodput", precision)),
)

_LEFT_OUT = (
    "plain",
    "Ray Serve/documented",
    "mosec/documented",
    "BentoML/documented",
    *(f"{peer}/identical" for peer in IDENTICAL_PEERS if peer != "mosec"),
    "TorchServe/experts",
    *(f"BentoML/{table} {precision}" for table in EXPERT_TABLES for precision in PRECISIONS),
)
QUICK = tuple(
    cell
    for cell in CELLS
    if cell.backend not in _LEFT_OUT
    and cell.workload != "jpeg224"
    and (cell.title != BF16 or cell.workload == "jpeg375")
    and (cell.table != "goodput" or cell.precision == "fp32")
)
"""What a quick run measures: enough for the ratios that the project promises. Of the peers it leaves out those that
were never the fastest: as documented all but LitServe, around the identical forward all but mosec, of the experts
TorchServe and BentoML; in bf16 all but the expert that is then the fastest in fp32."""

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

    def expert(table: str, precision: str) -> float | None:
        peers = tuple(in_precision(peer, precision) for peer in EXPERT_PEERS)
        return _divide(rate(in_precision(SMARTBATCH, precision), "jpeg375", table), fastest(peers, "jpeg375", table))

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
        **{f"{table}_{precision}": expert(table, precision) for table in EXPERT_TABLES for precision in PRECISIONS},
    }


def _divide(own: float | None, other: float | None) -> float | None:
    return round(own / other, 3) if own and other else None
