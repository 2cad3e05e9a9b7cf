"""What the figures were taken on: without it they mean nothing."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import psutil
from smartbatch_worker.contract.machine import cpu_flags, cpu_name, cpuinfo, num_cores

PACKAGES = (
    "torch",
    "torchvision",
    "torchserve",
    "litserve",
    "mosec",
    "bentoml",
    "ray",
    "fastapi",
    "uvicorn",
    "openvino",
    "onnxruntime",
)


def describe() -> dict[str, str | int | float]:
    """Processor, cores, memory, instruction sets that matter, versions, load from others right now."""
    flags = cpu_flags()
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": cpu_name(),
        "family_model": f"{cpuinfo('cpu family') or '?'}/{cpuinfo('model') or '?'}",
        "cores": num_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "instructions": " ".join(flag for flag in wanted if flag in flags),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average_1m_before": round(os.getloadavg()[0], 2),
        **versions,
    }
