"""What was measured, as docs/bench keeps it, and the machine it was measured on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAMES = ("peers", "scale", "agreement", "forward", "stress", "study", "capacity")
"""Files of docs/bench, without their suffix."""
RUN = "run"
"""What `bench.figures` says about the run they are of."""

Data = Mapping[str, Any]


class TwoMachines(ValueError):
    """Figures of different machines stand side by side."""


def load(folder: Path) -> Data:
    """The files that are there, by name.

    Raises:
        TwoMachines: they are not of one machine.
    """
    files = {name: folder / f"{name}.json" for name in (*NAMES, RUN)}
    data = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}
    machines = dict(_machines(data))
    if len(set(machines.values())) > 1:
        raise TwoMachines(f"figures are compared on one machine only, and these are of several: {machines}")
    return data


def _machines(data: Data) -> Iterator[tuple[str, tuple[str, int, float]]]:
    """Of each file: processor, cores, memory in GiB. The load tests and the bench have different words for them."""
    for name in NAMES:
        if name in data:
            machine = data[name]["machine"]
            memory = machine.get("memory_gib", machine.get("memory_gb"))
            yield name, (machine.get("cpu", machine.get("processor")), machine["cores"], memory)


def machine_of(data: Data) -> str:
    """The machine in words; empty where nothing was measured."""
    machine: dict[str, Any] = next((data[name]["machine"] for name in NAMES if name in data), {})
    if not machine:
        return ""
    processor = str(machine.get("cpu", machine.get("processor"))).replace("(R)", "").replace("(TM)", "")
    flags = machine.get("cpu_features") or str(machine.get("instructions", "")).split()
    shown = {"avx512f": "AVX-512", "avx512_bf16": "`avx512_bf16`", "amx_bf16": "AMX"}
    features = ", ".join(words for flag, words in shown.items() if flag in flags) or ", ".join(flags).upper()
    versions = machine.get("packages", machine)
    openvino = machine.get("openvino", "not installed")
    return (
        f"{machine['cores']} cores of an {processor}{f' ({features})' if features else ''}, "
        f"{machine.get('memory_gib', machine.get('memory_gb'))} GiB, torch {versions['torch']}, "
        f"OpenVINO {openvino}"
    )
