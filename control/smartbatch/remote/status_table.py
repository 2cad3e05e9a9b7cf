"""`smartbatch status` for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_PLAIN_WIDTH = 200


def show_status(status: Mapping[str, Any]) -> None:
    """Print what `collect_status` found."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    server = status["server"]
    if server["pid"] is not None:
        tokens = ", tokens required" if server["token_auth"] else ""
        up = "ended" if server["uptime_s"] is None else f"up {server['uptime_s']:.0f} s"
        console.print(f"pid {server['pid']}, {up}{tokens}, run folder {server['run_dir']}")
    console.print(
        f"inference {server['inference_url']}  management {server['management_url']}  metrics {server['metrics_url']}",
        soft_wrap=True,
    )
    for line in frontend_lines(status["frontend"]):
        console.print(line, soft_wrap=True)
    if not status["models"]:
        console.print("no model registered")
    for model in status["models"]:
        console.print(_model_table(model))


def frontend_lines(frontend: Mapping[str, Any]) -> list[str]:
    """How much of TorchServe's frontend is mended."""
    if frontend["frontend"] == "stock":
        return ["frontend: TorchServe's as it came (docs/decisions/frontend.md says what it lacks)"]
    left = {name: why for name, why in frontend["classes"].items() if why != "mended"}
    mended = len(frontend["classes"]) - len(left)
    lines = [f"frontend: mended {frontend['version']}, {mended} of {len(frontend['classes'])} classes"]
    return lines + [f"  {name} is left as TorchServe has it: {why}" for name, why in left.items()]


def _model_table(model: Mapping[str, Any]) -> Table:
    default = " (default)" if model["default"] else ""
    table = Table(
        title=f"{model['model_name']} {model['version']}{default}: batches of up to {model['batch_size']} within "
        f"{model['max_batch_delay_ms']} ms, {model['pending_requests']} waiting",
        title_justify="left",
        box=box.SIMPLE,
    )
    for column in ("worker", "pid", "state", "loaded", "weights", "precision", "device", "compile", "micro-batch"):
        table.add_column(column)
    for worker in model["workers"]:
        handler = worker["handler"] or {}
        loaded = {True: "yes", False: "not yet", None: "?"}[handler.get("loaded")]
        table.add_row(
            worker["id"],
            str(worker["pid"]),
            worker["status"],
            loaded,
            *(str(handler.get(key, "?")) for key in ("weights", "precision", "device")),
            f"{handler.get('compile', '?')}{', measuring' if handler.get('measuring') else ''}",
            ", ".join(f"{size} of {shape}" for shape, size in (handler.get("micro_batch") or {}).items()) or "-",
        )
    return table
