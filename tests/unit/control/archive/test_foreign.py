"""Files of other libraries are called what they are, and weights of PyTorch's are none of them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from smartbatch.archive.build import ArchiveError, ArchiveSettings, build_archive
from smartbatch.archive.foreign import refuse_foreign


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("net.onnx", b"\x08\x0a\x12\x07pytorch", "is an ONNX model, .*torch.export"),
        ("net.xml", b"<net/>", "is an OpenVINO model, .*--set compile=openvino"),
        ("frozen.pb", b"\x0a", "is a model of TensorFlow, "),
        ("net.tflite", b"\x1c\0\0\0TFL3\0\0", "is a model of TensorFlow Lite"),
        ("net.h5", b"\x89HDF\r\n\x1a\n", "is a model of Keras"),
        ("weights.pth", b"\x89HDF\r\n\x1a\n", "is a model of Keras"),
        ("net.pte", b"\x34\0\0\0ET12", "is a program of ExecuTorch"),
        ("net.engine", b"ftrt\0\0\0\0", "is an engine of TensorRT"),
        ("net.gguf", b"GGUF\3\0\0\0", "is a GGUF file, .*vLLM"),
    ],
)
def test_told_by_what_is_in_them(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=told) as caught:
        build_archive(ArchiveSettings(model="resnet18", model_path=path, output=tmp_path / "store"))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("model.weights.h5", "is a model of Keras"),
        ("net/data/aotinductor/model/wrapper.so", "is a program of AOTInductor, .*--set compile=inductor"),
        ("MAR-INF/MANIFEST.json", "is an archive already, .*smartbatch serve"),
    ],
)
def test_told_by_what_is_in_their_archive(tmp_path: Path, entry: str, told: str) -> None:
    path = tmp_path / "net.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, b"")
        archive.writestr("net/archive_format", b"pt2")
    with pytest.raises(ArchiveError, match=told):
        refuse_foreign(path)


def test_pytorchs_own_are_let_through(tmp_path: Path) -> None:
    module = torch.nn.Linear(4, 3)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    torch.save(module.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    torch.export.save(torch.export.export(module, (torch.zeros(2, 4),)), tmp_path / "net.pt2")
    (tmp_path / "empty.pth").touch()
    for path in tmp_path.iterdir():
        refuse_foreign(path)
