"""What a forward computes in: fp32, or coarser numbers where the processor has them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from smartbatch_worker.contract.machine import cpu_flags
from smartbatch_worker.forward.batches import each

logger = logging.getLogger(__name__)

Forward: TypeAlias = Callable[[Any], Any]
"""From a `Batch` on the device, mostly float32 [N, ...], to what the model gives."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_INSTRUCTIONS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "fp16": {"avx512_fp16", "amx_fp16", "fphp"}}
"""Of CPUs that compute in a precision, as Linux names them; elsewhere it is emulated, many times slower than fp32."""


def in_precision(module: torch.nn.Module, precision: str) -> Forward:
    """The module, converted, as a function of one batch in float32."""
    dtype = _DTYPES[precision]
    module = module.to(dtype=dtype)
    return module if precision == "fp32" else lambda batch: module(each(lambda tensor: _as(tensor, dtype), batch))


def _as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Floating-point numbers alone: indexes and truth values are what they are."""
    return tensor.to(dtype=dtype) if tensor.is_floating_point() else tensor


def is_emulated(precision: str) -> bool:
    """Whether this CPU has a precision in name only; where nobody says, it is believed to have it."""
    flags = cpu_flags()
    return precision != "fp32" and bool(flags) and not flags & _INSTRUCTIONS[precision]


def warn_if_emulated(precision: str, device: torch.device) -> None:
    """Say in the log that the configured precision costs time here, and saves none."""
    if device.type == "cpu" and is_emulated(precision):
        text = "this CPU has no %s instructions: precision %s is emulated and slower than fp32"
        logger.warning(text, precision, precision)
