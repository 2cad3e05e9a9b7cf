"""What a forward computes in: fp32, or coarser numbers where the processor has them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from smartbatch_worker.contract.machine import cpu_flags

logger = logging.getLogger(__name__)

Forward: TypeAlias = Callable[[torch.Tensor], Any]
"""From float32 [N, ...] on the device to what the model gives."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "fphp"}}
"""Of CPUs that compute in a precision, as Linux names them; elsewhere it is emulated, many times slower than fp32."""


def in_precision(module: torch.nn.Module, precision: str) -> Forward:
    """The module, converted, as a function of float32."""
    dtype = _DTYPES[precision]
    module = module.to(dtype=dtype)
    return module if precision == "fp32" else lambda batch: module(batch.to(dtype=dtype))


def is_emulated(precision: str) -> bool:
    """Whether this CPU has a precision in name only; where nobody says, it is believed to have it."""
    flags = cpu_flags()
    return precision != "fp32" and bool(flags) and not flags & _INSTRUCTIONS[precision]


def warn_if_emulated(precision: str, device: torch.device) -> None:
    """Say in the log that the configured precision costs time here, and saves none."""
    if device.type == "cpu" and is_emulated(precision):
        text = "this CPU has no %s instructions: precision %s is emulated and slower than fp32"
        logger.warning(text, precision, precision)
