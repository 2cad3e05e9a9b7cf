"""The bench's model with uint8 pictures as its input, in the form of each engine of `bench.servers.expert`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD

from bench.servers.expert import SIDE


class OfPixels(torch.nn.Module):
    """A model of normalised float planes, asked with uint8 [N, 224, 224, 3]: an engine fuses what lies between."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self._dtype = model.to(dtype), dtype
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores, [N, classes]."""
        planes = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        scores: torch.Tensor = self.model(planes.to(self._dtype))
        return scores


def for_openvino(model: Callable[[torch.dtype], OfPixels], folder: Path) -> None:
    """expert.xml; which precision it computes in is said when it is loaded."""
    import openvino as ov

    shape = [([-1, SIDE, SIDE, 3], ov.Type.u8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO traces, which PyTorch calls deprecated
        converted = ov.convert_model(model(torch.float32), example_input=_two(), input=shape)
    ov.save_model(converted, str(folder / "expert.xml"), compress_to_fp16=False)


def for_onnxruntime(model: Callable[[torch.dtype], OfPixels], folder: Path) -> None:
    """expert.onnx, of any number of images."""
    torch.onnx.export(
        model(torch.float32),
        (_two(),),
        str(folder / "expert.onnx"),
        dynamo=True,
        dynamic_shapes=({0: _batch()},),
        verbose=False,
    )


def for_inductor(model: Callable[[torch.dtype], OfPixels], folder: Path) -> None:
    """expert_fp32.pt2 and expert_bf16.pt2: PyTorch's own programs, their convolutions channels-last."""
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        of_pixels = model(dtype).to(memory_format=torch.channels_last)
        program = torch.export.export(of_pixels, (_two(),), dynamic_shapes=({0: _batch()},))
        torch.export.save(program, folder / f"expert_{name}.pt2")


EXPORTS = {
    "openvino": (for_openvino, "expert.xml"),
    "onnxruntime": (for_onnxruntime, "expert.onnx"),
    "inductor": (for_inductor, "expert_bf16.pt2"),
}
"""By the engine that reads it, with the file that is written last; the first of several that are as fast is taken."""


def export(engine: str, weights: Path, folder: Path) -> None:
    """Write what `engine` reads, unless it is there.

    Args:
        engine: key of EXPORTS.
        weights: the bench's state dict.
        folder: is made if it is not there.

    Raises:
        Exception: the engine's package is missing, or cannot convert the model.
    """
    from bench.servers.documented import load_model

    write, file = EXPORTS[engine]
    if not (folder / file).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(lambda dtype: OfPixels(load_model(str(weights)), dtype).eval(), folder)


def _two() -> torch.Tensor:
    return torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8)


def _batch() -> torch.export.Dim:
    return torch.export.Dim("batch", min=1, max=1024)
