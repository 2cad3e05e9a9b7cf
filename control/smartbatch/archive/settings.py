"""What goes into an archive, checked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from smartbatch_worker.contract.config import TASKS
from smartbatch_worker.contract.programs import Program, program_in

from smartbatch.errors import SmartBatchError, UsageError

DEFAULT_MODEL = "resnet18"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")


class ArchiveError(SmartBatchError):
    """The archive cannot be built from these files; the message names the file and what is wrong."""


class CheckError(Exception):
    """The archive would not serve; the message says why. The check's process raises it; it becomes the above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveSettings:
    """What goes into an archive.

    Raises:
        UsageError: two settings exclude each other, or a name or file breaks a rule.
    """

    model: str | None = None
    """torchvision model by name; None is resnet18, unless the settings below bring a model."""
    timm: str | None = None
    """Model of timm's by name."""
    model_file: Path | None = None
    """Python file that defines the torch.nn.Module."""
    model_path: Path | None = None
    """State dict (.pth, .safetensors) or whole program (TorchScript, torch.export); None is pretrained weights."""
    hf: str | None = None
    """Hugging Face model: its folder, or its name on the hub."""
    task: str | None = None
    """What the Hugging Face model is for; None: as its config.json tells."""
    tokenizer: Path | None = None
    """tokenizer.json that makes a request's text the input of a model of one's own."""
    name: str | None = None
    """The archive's and the model's name; None derives it from the model."""
    version: str = "1.0"
    """Model version in the manifest."""
    handler: Path | None = None
    """Module with a subclass of SmartBatchHandler; None is the handler itself."""
    num_classes: int | None = None
    """Width of the last layer, where it is not the architecture's own."""
    input_shape: str | None = None
    """Shape of one item, "3,*,*"; None leaves it to the model."""
    inputs: tuple[str, ...] = ()
    """Named inputs, each "NAME:DTYPE:SHAPE[:PAD[:left]]"; none leaves them to the model."""
    lengths: tuple[str, ...] = ()
    """Sizes to pad to, each "LETTER=16,32,64"."""
    labels: Path | None = None
    """Class names: JSON (list, or index to name) or one name per line."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Further keys of model-config.yaml, as text."""
    example: Path | None = None
    """A request's body that the handler must answer; None is a tensor of `input_shape`."""
    extra_files: tuple[Path, ...] = ()
    """Files, or folders whose contents, go beside the handler."""
    output: Path = Path("model_store")
    """Folder for the archive."""
    force: bool = False
    """Replace an archive of that name."""
    require_pretrained: bool = False
    """Fail where pretrained weights cannot be fetched, instead of taking random ones."""
    random_weights: bool = False
    """Take seeded random weights without trying to fetch any."""

    def __post_init__(self) -> None:
        _exclude(self, "model", "model_file")
        _exclude(self, "timm", "model")
        _exclude(self, "timm", "model_file")
        _exclude(self, "model_file", "require_pretrained")
        _exclude(self, "model_file", "random_weights")
        _exclude(self, "random_weights", "require_pretrained")
        _exclude(self, "random_weights", "model_path")
        if self.inputs and self.input_shape:
            raise UsageError("--input and --input-shape exclude each other")
        for option in (
            "model",
            "timm",
            "model_file",
            "model_path",
            "num_classes",
            "random_weights",
            "require_pretrained",
        ):
            _exclude(self, "hf", option)
        _exclude(self, "hf", "tokenizer")
        if self.task is not None and self.hf is None:
            raise UsageError("--task says what the model of --hf is for, which is missing")
        if self.task is not None and self.task not in TASKS:
            raise UsageError(f"--task must be one of {', '.join(TASKS)}; got {self.task!r}")
        for option in ("model_file", "handler", "labels", "example", "tokenizer"):
            path = getattr(self, option)
            if path is not None and not path.is_file():
                raise UsageError(f"--{option.replace('_', '-')} must be a file, got {str(path)!r}")
        # A weights file's own message names it as the user did.
        if self.model_path is not None and not self.model_path.is_file():
            raise UsageError(f"MODEL_PATH / --model-path must be a file: {self.model_path}: no such file")
        for path in self.extra_files:
            if not path.exists():
                raise UsageError(f"--extra-files must exist, got {str(path)!r}")
        if not _NAME.fullmatch(self.archive_name):
            raise UsageError(
                f"name must be letters, digits, '_', '-' and '.', starting with a letter or digit; "
                f"got {self.archive_name!r}"
            )
        if not self.version.strip():
            raise UsageError("version must not be empty")

    @property
    def archive_name(self) -> str:
        """`name`, else that of the model or its folder, or the stem of its file."""
        if self.name is not None:
            return self.name
        if self.hf is not None:
            return Path(self.hf).resolve().name
        if self.model is not None or self.timm is not None:
            return Path(self.model or self.timm or "").stem
        if self.model_file is not None:
            stem = self.model_file.stem
            return self.model_file.resolve().parent.name if stem == "model" else stem
        return self.model_path.stem if self.model_path is not None and self.program else DEFAULT_MODEL

    @property
    def program(self) -> Program | None:
        """The whole program that `model_path` is, None where it holds weights."""
        return None if self.model_path is None else program_in(self.model_path)

    @property
    def archive_path(self) -> Path:
        """Where the archive is written."""
        return self.output / f"{self.archive_name}.mar"


def _exclude(settings: ArchiveSettings, one: str, other: str) -> None:
    if getattr(settings, one) and getattr(settings, other):
        flags = [f"--{name.replace('_', '-')}" for name in (one, other)]
        raise UsageError(f"{flags[0]} and {flags[1]} exclude each other")


def parse_input(text: str) -> tuple[str, dict[str, Any]]:
    """Read "NAME:DTYPE:SHAPE[:PAD[:left]]", such as "ids:int64:L:0"; the dtype "image" is a picture of that shape.

    Raises:
        UsageError: a part is missing, or there is one too many.
    """
    name, *parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not name:
        raise UsageError(f"--input takes NAME:DTYPE:SHAPE[:PAD[:left]], such as ids:int64:L:0; got {text!r}")
    keys: dict[str, Any] = {"dtype": parts[0], "shape": [part for part in parts[1].split(",") if part]}
    if parts[0] == "image":
        keys |= {"dtype": "float32", "image": True}
    if len(parts) > 2:
        keys["pad"] = yaml.safe_load(parts[2])
    if len(parts) > 3:
        keys["pad_side"] = parts[3]
    return name, keys


def parse_length(text: str) -> tuple[str, list[str]]:
    """Read "LETTER=16,32,64".

    Raises:
        UsageError: it has no letter, or no sizes.
    """
    letter, _, sizes = text.partition("=")
    if not letter or not sizes:
        raise UsageError(f"--lengths takes LETTER=SIZE,SIZE…, such as L=16,32,64; got {text!r}")
    return letter.strip(), sizes.split(",")
