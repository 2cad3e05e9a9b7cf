"""What a model of named inputs takes and gives: `inputs`, `lengths` and `outputs` of model-config.yaml.

inputs:
  input_ids:      {dtype: int64, shape: [L], pad: 0}
  attention_mask: {dtype: int64, shape: [L], pad: 0}
lengths: {L: [16, 32, 64, 128]}
outputs: {logits: [L, 9]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Size: TypeAlias = int | str | None
"""Of a dimension: fixed; a letter, which stands for one size throughout an item; or None, any size."""
Sizes: TypeAlias = tuple[Size, ...]

DTYPES = (
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)
"""By torch's names."""
PAD_SIDES = ("right", "left")

_LETTER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_FREE = (None, "null", "*", "?")
_KEYS = ("dtype", "shape", "pad", "pad_side", "image")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """One input of a model, without the batch dimension."""

    name: str
    """Of the argument of the model's `forward`, and of the tensor in a request."""
    dtype: str = "float32"
    """One of `DTYPES`; a request's numbers arrive as such, unchanged, or are refused."""
    shape: Sizes = ()
    pad: bool | int | float | None = None
    """What stands behind an item that is shorter than others of its forward; None: it is never padded."""
    pad_side: str = "right"
    """right: behind the item; left: before it, as models want it that go on writing where it ends."""
    image: bool = False
    """[C, H, W] of a picture: uint8 is scaled and normalised, and JSON may hold {"b64": a file's bytes}."""

    def __post_init__(self) -> None:
        told = f"input {self.name!r}"
        if not _LETTER.fullmatch(self.name):
            raise ValueError(f"{told}: a name must be an identifier")
        if self.dtype not in DTYPES:
            raise ValueError(f"{told}: dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if self.pad_side not in PAD_SIDES:
            raise ValueError(f"{told}: pad_side must be right or left; got {self.pad_side!r}")
        if self.image and (len(self.shape) != 3 or self.dtype != "float32" or self.pad is not None):
            raise ValueError(f"{told}: an image is float32 of shape [C, H, W], without a pad")
        if self.pad is None:
            return
        if not self.letters:
            raise ValueError(f"{told}: a pad needs a size that is a letter; got shape {describe(self.shape)}")
        kind = bool if self.dtype == "bool" else float if "float" in self.dtype else int
        if not isinstance(self.pad, (int, float) if kind is float else kind) or (
            kind is int and isinstance(self.pad, bool)
        ):
            raise ValueError(f"{told}: pad must be a {kind.__name__}, as {self.dtype} is; got {self.pad!r}")

    @property
    def letters(self) -> tuple[str, ...]:
        """Of the shape, in order."""
        return tuple(size for size in self.shape if isinstance(size, str))

    def as_dict(self) -> dict[str, Any]:
        """As model-config.yaml has it: what is default is left out."""
        plain: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape)}
        if self.pad is not None:
            plain["pad"] = self.pad
        if self.pad_side != "right":
            plain["pad_side"] = self.pad_side
        if self.image:
            plain["image"] = True
        return plain


Inputs: TypeAlias = tuple[InputSpec, ...]
Outputs: TypeAlias = tuple[tuple[str, Sizes], ...]
"""Sizes of one item's outputs, by name; the one output of a model that gives a single tensor is named ""."""
Lengths: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""By letter, the sizes that are padded to, ascending."""


def parse_inputs(value: Any) -> Inputs:
    """Read `inputs`: a mapping of names, or its JSON text.

    Raises:
        ValueError: what is wrong with which input, and what is accepted.
    """
    specs = []
    for name, given in _mapping("inputs", value).items():
        if not isinstance(given, Mapping) or not set(given) <= set(_KEYS):
            raise ValueError(f"input {name!r} takes {', '.join(_KEYS)}; got {given!r}")
        keys = {**given, "shape": parse_sizes(given.get("shape", ()))}
        specs.append(InputSpec(name=str(name), **keys))
    if not specs:
        raise ValueError("inputs must name at least one input")
    padded = padded_letters(specs)
    for spec in specs:
        unpadded = padded.intersection(spec.letters) if spec.pad is None else ()
        for letter in sorted(unpadded):
            raise ValueError(f"input {spec.name!r} has size {letter}, which another input pads: it needs a pad, too")
    return tuple(specs)


def parse_lengths(value: Any) -> Lengths:
    """Read `lengths`: a mapping of letters to sizes, or its JSON text."""
    return tuple((str(letter), _ascending(letter, sizes)) for letter, sizes in _mapping("lengths", value).items())


def parse_outputs(value: Any) -> Outputs:
    """Read `outputs`: the sizes of a single tensor, or a mapping of names to such, or JSON text of either."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return (("", parse_sizes(value)),)
    return tuple((str(name), parse_sizes(sizes)) for name, sizes in _mapping("outputs", value).items())


def parse_sizes(value: Any) -> Sizes:
    """Read a shape of numbers, letters and null; text has commas between.

    Raises:
        ValueError: an entry is none of them.
    """
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("[]() ").split(",") if part.strip()]
    return tuple(_size(entry) for entry in value)


def padded_letters(specs: Sequence[InputSpec]) -> frozenset[str]:
    """The letters whose sizes may differ within a forward."""
    return frozenset(letter for spec in specs if spec.pad is not None for letter in spec.letters)


def describe(sizes: Sizes) -> str:
    """A shape for a message, free sizes as `*`."""
    return "[" + ", ".join("*" if size is None else str(size) for size in sizes) + "]"


def describe_inputs(specs: Sequence[InputSpec]) -> str:
    """All inputs, for a message."""
    return ", ".join(f"{spec.name} ({spec.dtype} {describe(spec.shape)})" for spec in specs)


def _size(entry: Any) -> Size:
    if entry in _FREE:
        return None
    if isinstance(entry, str) and not entry.isdecimal():
        if not _LETTER.fullmatch(entry):
            raise ValueError(f"a size is a number, a letter or null; got {entry!r}")
        return entry
    if isinstance(entry, (bool, float)) or int(entry) < 1:
        raise ValueError(f"a size is a number of at least 1, a letter or null; got {entry!r}")
    return int(entry)


def _ascending(letter: Any, sizes: Any) -> tuple[int, ...]:
    found = parse_sizes([sizes] if isinstance(sizes, int) else sizes)
    numbers = tuple(size for size in found if isinstance(size, int))
    if not numbers or len(numbers) != len(found) or list(numbers) != sorted(set(numbers)):
        raise ValueError(f"lengths of {letter} must be ascending numbers of at least 1; got {sizes!r}")
    return numbers


def _mapping(key: str, value: Any) -> Mapping[Any, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must map names to values; got {value!r}")
    return value
