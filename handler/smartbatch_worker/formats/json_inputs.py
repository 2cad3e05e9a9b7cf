"""JSON bodies of models with named inputs: `{"inputs": {"ids": [1, 2], …}}`, or a list of such objects, one an item.

Numbers arrive as what the input is declared to be: an integer is never read by way of a float.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import simdjson
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import InputSpec
from smartbatch_worker.errors import MalformedBody
from smartbatch_worker.formats import json_lists
from smartbatch_worker.formats.images import base64_files
from smartbatch_worker.formats.json_lists import INSTANCES, Items, unique
from smartbatch_worker.formats.limits import MAX_LISTS, check_count, check_names, check_num_items

Named = dict[str, torch.Tensor]
KEY, SOLE_KEY = "inputs", "data"


def read_named(body: bytes | bytearray, config: WorkerConfig) -> Named | list[Named] | Items:
    """Read the named inputs of one item, or of several: a list of objects, or tensors with one dimension more.

    `{"data": …}` is the input of a model that has one; `{"instances": […]}` is KServe's spelling of the list.

    Raises:
        MalformedBody: not JSON, a key missing or twice, or anything in an input that it does not take.
        BodyTooLarge: more than max_elements numbers, max_items objects, or MAX_LISTS lists.
    """
    body, document = json_lists.parsed(body)
    if not isinstance(document, simdjson.Object):
        raise MalformedBody('the JSON body must be an object {"inputs": {…}}')
    specs = config.inputs or ()
    found = unique(document, "the JSON body", {KEY, SOLE_KEY, INSTANCES})
    reader = _Reader(config)
    if INSTANCES in found:
        given = found[INSTANCES]
        if not isinstance(given, simdjson.Array):
            raise MalformedBody(f'"{INSTANCES}" must be a list, one entry an item; got {json_lists.kind(given)}')
        check_num_items(len(given), config.max_items)
        items = [reader.instance(entry, f'"{INSTANCES}"[{index}]') for index, entry in enumerate(given)]
        reader.check_lists(json_lists.count(body, b"[") - 1)
        return Items(items, False, True)
    if KEY in found:
        given = found[KEY]
        if isinstance(given, simdjson.Array):
            json_lists.check_protocol(document)
            check_num_items(len(given), config.max_items)
            items = [reader.item(entry, f'"inputs"[{index}]') for index, entry in enumerate(given)]
            reader.check_lists(json_lists.count(body, b"[") - 1)
            return items
        item = reader.item(given, '"inputs"')
        reader.check_lists(json_lists.count(body, b"["))
        return item
    if SOLE_KEY in found and len(specs) == 1:
        tensor = reader.tensor(found[SOLE_KEY], specs[0], '"data"')
        reader.check_lists(json_lists.count(body, b"["))
        return {specs[0].name: tensor}
    raise MalformedBody(
        'the JSON body has no "inputs"; send {"inputs": {' + ", ".join(f'"{spec.name}": …' for spec in specs) + "}}"
    )


class _Reader:
    """Reads the values of one body; together they may hold max_elements numbers."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._specs = {spec.name: spec for spec in config.inputs or ()}
        self._num_left = config.max_elements
        self._arrays: list[tuple[Any, tuple[int, ...], str]] = []

    def check_lists(self, num_brackets: int) -> None:
        """Refuse lists among an array's numbers: reading flattens, so [1, [2]] would pass for two numbers.

        Args:
            num_brackets: in the body; as many as the arrays read have lists, and nothing need be walked.
        """
        if num_brackets == sum(json_lists.num_lists(shape) for _, shape, _ in self._arrays):
            return
        for value, shape, told in self._arrays:
            if math.prod(shape) > MAX_LISTS:
                raise MalformedBody(f'with more than a million numbers, nothing but the lists of {told} may hold a "["')
            if json_lists.holds_lists(value, len(shape)):
                raise MalformedBody(f"{told} mixes numbers and lists at one level")

    def item(self, given: Any, told: str) -> Named:
        if not isinstance(given, simdjson.Object):
            raise MalformedBody(f"{told} must be an object of names and values, or a list of such")
        values = unique(given, told)
        check_names(values, self._config.inputs or ())
        return {name: self.tensor(value, self._specs[name], f"input {name!r}") for name, value in values.items()}

    def instance(self, entry: Any, told: str) -> dict[str, torch.Tensor]:
        """An item with its inputs by name; of a model that has one, the input alone will do."""
        name, *others = self._specs
        if others or (isinstance(entry, simdjson.Object) and name in entry):
            return self.item(entry, told)
        return {name: self.tensor(entry, self._specs[name], told)}

    def tensor(self, value: Any, spec: InputSpec, told: str) -> torch.Tensor:
        if isinstance(value, simdjson.Object) or (spec.image and isinstance(value, str)):
            return self._picture(value, spec, told)
        if isinstance(value, simdjson.Array):
            return self._array(value, spec, told)
        if isinstance(value, (bool, int, float)):
            return _to_tensor(np.array(_checked_scalar(value, spec, told)), spec)
        raise MalformedBody(f"{told} must hold numbers; got {json_lists.kind(value)}")

    def _array(self, value: Any, spec: InputSpec, told: str) -> torch.Tensor:
        shape = json_lists.shape_of(value, self._num_left, told)
        check_count(math.prod(shape), self._num_left)
        self._num_left -= math.prod(shape)
        if spec.dtype == "bool":
            numbers = booleans(value, len(shape), told)
        else:
            of_type, dtype = ("d", np.float64) if "float" in spec.dtype else ("i", np.int64)
            try:
                numbers = np.frombuffer(value.as_buffer(of_type=of_type), dtype=dtype)
            except (TypeError, ValueError, RuntimeError):
                wanted = "numbers" if of_type == "d" else "whole numbers of at most 64 bits"
                raise MalformedBody(f"{told} must hold {wanted} only: it is {spec.dtype}") from None
        if numbers.size != math.prod(shape):
            raise MalformedBody(f"{told} is ragged: its first lists say {list(shape)}, and not all are equally long")
        self._arrays.append((value, shape, told))
        return _to_tensor(numbers.reshape(shape), spec)

    def _picture(self, value: Any, spec: InputSpec, told: str) -> torch.Tensor:
        text = base64_files.text_in(value) if spec.image else None
        if text is None:
            takes = 'lists, or {"b64": a picture\'s bytes}' if spec.image else "lists of numbers"
            raise MalformedBody(f"{told} takes {takes}; got an object")
        return base64_files.read(text, self._config, told)


def booleans(value: Any, depth: int, told: str) -> np.ndarray[Any, Any]:
    """The truth values in lists nested so deep, in order."""
    entries = list(itertools.islice(json_lists.entries(value, depth), MAX_LISTS + 1))
    if len(entries) > MAX_LISTS:
        raise MalformedBody(f"{told} has more than {MAX_LISTS} truth values; send them in binary")
    if not all(isinstance(entry, bool) or entry in (0, 1) for entry in entries):
        raise MalformedBody(f"{told} must hold true and false (or 1 and 0) only")
    return np.array(entries, dtype=bool)


def _checked_scalar(value: bool | int | float, spec: InputSpec, told: str) -> bool | int | float:
    is_whole = isinstance(value, int) and -(2**63) <= value < 2**63
    fits = value in (0, 1) if spec.dtype == "bool" else not isinstance(value, bool)
    if not fits or ("int" in spec.dtype and not is_whole):
        raise MalformedBody(f"{told} is {spec.dtype}; got {str(value)[:40]}")
    return float(value) if "float" in spec.dtype else value


def _to_tensor(numbers: np.ndarray[Any, Any], spec: InputSpec) -> torch.Tensor:
    """float64 is narrowed here already, where NumPy turns what is too large into infinity, to be refused as such."""
    if spec.dtype not in ("float64", "bool") and numbers.dtype == np.float64:
        with np.errstate(over="ignore"):
            numbers = numbers.astype(np.float32)
    return torch.from_numpy(numbers.copy() if not numbers.flags.writeable else numbers)
