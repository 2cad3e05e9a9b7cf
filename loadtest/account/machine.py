"""The machine a figure was measured on: without it, a figure says nothing."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil
from smartbatch_worker.contract.machine import cpu_flags, cpu_name, num_cores

PACKAGES = ("torch", "torchvision", "torchserve", "locust")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a reader needs to compare figures."""

    cpu: str
    cores: int
    """Cores this process may use."""
    cpu_features: tuple[str, ...]
    """Instruction sets that decide how fast a precision is."""
    memory_gib: float
    gpus: tuple[str, ...]
    system: str
    python: str
    packages: dict[str, str]

    def __str__(self) -> str:
        """One line for captions."""
        where = ", ".join(self.gpus) if self.gpus else "no GPU"
        features = ", ".join(self.cpu_features) or "no vector extension known"
        torch = self.packages.get("torch", "?")
        return (
            f"{self.cpu}, {self.cores} cores ({features}), {self.memory_gib:.0f} GiB, {where}, "
            f"Python {self.python}, torch {torch}"
        )


def describe_machine() -> Machine:
    """Look at the machine this runs on."""
    return Machine(
        cpu=cpu_name(),
        cores=num_cores(),
        cpu_features=_cpu_features(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=dict(_packages()),
    )


def _cpu_features() -> tuple[str, ...]:
    flags = cpu_flags()
    return tuple(f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16") if f in flags)


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False)
    return tuple(answer.stdout.split("\n")[:-1]) if answer.returncode == 0 else ()


def _packages() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return found
