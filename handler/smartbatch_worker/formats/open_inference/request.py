"""One request of the Open Inference Protocol: its JSON, and where the bytes of its binary tensors are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import simdjson
import torch

from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.contract.inputs import InputSpec
from smartbatch_worker.contract.open_inference import INPUT, TEXT, TEXT_PAIR, TEXTS
from smartbatch_worker.errors import MalformedBody, UnknownFormat, WrongInputs
from smartbatch_worker.formats import json_lists
from smartbatch_worker.formats.json_lists import unique
from smartbatch_worker.formats.limits import MAX_DIMS, check_count, check_names, check_num_items
from smartbatch_worker.formats.open_inference import tensors
from smartbatch_worker.formats.open_inference.asked import Asked, AskedOutput
from smartbatch_worker.formats.open_inference.tensors import Given, Numbers

MAX_TENSORS = 256
"""Inputs of a request, and outputs asked for."""
MAX_CLASSES = 1000
MAX_NAME_CHARS = 1000
"""Of an id, and of a name: both come back in the answer."""

_JSON_LENGTH = re.compile(r";\s*json=(\d{1,10})\s*(?:;|$)", re.ASCII)
_ELSEWHERE = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Request:
    """What was sent, and what is asked for."""

    inputs: dict[str, torch.Tensor]
    """By name, each as it was sent; none where there are texts."""
    texts: dict[str, list[str]]
    """By name."""
    asked: Asked


def read(body: bytes | bytearray, content_type: str, config: WorkerConfig) -> Request:
    """Read one request.

    Args:
        body: JSON, and the bytes of binary tensors behind it.
        content_type: `…; json=N` where the JSON has N bytes; without, it is the whole body.
        config: names the inputs, and bounds numbers and items.

    Raises:
        MalformedBody: the protocol's rules are broken; sizes that do not fit the body are.
        BodyTooLarge: more than max_elements numbers, or max_items texts.
        WrongInputs: inputs that the model does not have.
    """
    length = _json_length(body, content_type)
    # Our parser pads what it reads: a copy of a few hundred bytes, where binary tensors follow.
    text, document = json_lists.parsed(body if length == len(body) else bytes(memoryview(body)[:length]))
    if not isinstance(document, simdjson.Object):
        raise MalformedBody('the JSON must be an object {"inputs": […]}')
    top = unique(document, "the JSON", {"id", "inputs", "outputs", "parameters"})
    given = _inputs(top.get("inputs"), length, len(body))
    names = [each.name for each in given]
    if len(set(names)) != len(names):
        raise MalformedBody(f"there are two inputs of one name, among {_quoted(names)}")
    asked = _asked(top)
    if any(each.datatype == TEXTS for each in given):
        return Request({}, _texts(given, body, config), asked)
    specs = config.inputs
    if specs is None:
        if names != [INPUT]:
            raise WrongInputs(f"the model takes one input, named {INPUT!r}; got {_quoted(names)}")
    else:
        check_names(names, specs)
    check_count(sum(each.count for each in given), config.max_elements)
    numbers = Numbers(text, config.max_elements)
    read_ones = {each.name: numbers.tensor(each, body) for each in given}
    numbers.check_lists(num_others=1 + len(given) + ("outputs" in top))
    return Request(read_ones, {}, asked)


def _texts(given: list[Given], body: bytes | bytearray, config: WorkerConfig) -> dict[str, list[str]]:
    if config.tokenizer is None:
        told = _told(config.inputs)
        raise UnknownFormat(f"{TEXTS} is text, and this model has no tokenizer; it takes {told}")
    names = {each.name: each.datatype for each in given}
    if not {TEXT} <= set(names) <= {TEXT, TEXT_PAIR} or set(names.values()) != {TEXTS}:
        raise WrongInputs(
            f"texts are {TEXTS} inputs named {TEXT!r}, and {TEXT_PAIR!r} where there are two; got {names}"
        )
    for each in given:
        check_num_items(each.count, config.max_items)
        if each.count == 0 or each.count != max(each.shape, default=1):
            raise WrongInputs(f"input {each.name!r} must have shape [N] or [N, 1], N texts; got {list(each.shape)}")
    found = {each.name: tensors.texts(each, body) for each in given}
    if len({len(texts) for texts in found.values()}) > 1:
        raise WrongInputs(f"{TEXT!r} and {TEXT_PAIR!r} must hold as many texts as each other")
    return found


def _json_length(body: bytes | bytearray, content_type: str) -> int:
    match = _JSON_LENGTH.search(content_type)
    if match is None:
        if "json=" in content_type:
            raise MalformedBody("Inference-Header-Content-Length must be a number of bytes")
        return len(body)
    length = int(match[1])
    if not 2 <= length <= len(body):
        raise MalformedBody(f"Inference-Header-Content-Length says {length} bytes of JSON; the body has {len(body)}")
    return length


def _inputs(value: Any, start: int, end: int) -> list[Given]:
    """What the JSON tells of each input; the bytes of binary ones lie one behind the other, from `start` to `end`."""
    given: list[Given] = []
    for told, entry in _entries(value, "inputs"):
        found = unique(entry, told, {"name", "shape", "datatype", "data", "parameters"})
        name, datatype = (_typed(found, key, str, told) for key in ("name", "datatype"))
        if not name or len(name) > MAX_NAME_CHARS:
            raise MalformedBody(f"{told} must have a name of at most {MAX_NAME_CHARS} characters")
        if datatype not in tensors.DTYPES and datatype != TEXTS:
            accepted = ", ".join((*tensors.DTYPES, TEXTS))
            raise MalformedBody(f"input {name[:40]!r} has datatype {datatype[:16]!r}; accepted are {accepted}")
        parameters = _parameters(found, f"input {name[:40]!r}")
        if _ELSEWHERE in parameters:
            raise MalformedBody(f"input {name[:40]!r} lies in shared memory, which this server does not read; send it")
        size = _typed(parameters, "binary_data_size", int, f"input {name[:40]!r}", missing=-1)
        if (size >= 0) == ("data" in found):
            raise MalformedBody(f'input {name[:40]!r} must have either "data", or a binary_data_size of 0 or more')
        given.append(Given(name, datatype, _shape(found, name), found.get("data"), size, start))
        start += max(size, 0)
    if start != end:
        raise MalformedBody(
            f"binary_data_size of all inputs must add up to what follows the JSON; it is {abs(end - start)} bytes too "
            + ("much" if start > end else "little")
        )
    return given


def _shape(found: dict[str, Any], name: str) -> tuple[int, ...]:
    shape = found.get("shape")
    if not isinstance(shape, simdjson.Array) or len(shape) > MAX_DIMS:
        raise MalformedBody(f"input {name[:40]!r} must have a shape, a list of at most {MAX_DIMS} sizes")
    sizes = [size for size in shape if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63]
    if len(sizes) != len(shape):
        raise MalformedBody(f"input {name[:40]!r}: the sizes of its shape must be whole numbers of 0 or more")
    return tuple(sizes)


def _asked(top: dict[str, Any]) -> Asked:
    identity = _typed(top, "id", str, "the JSON", missing=None)
    if identity is not None and len(identity) > MAX_NAME_CHARS:
        raise MalformedBody(f"an id may have {MAX_NAME_CHARS} characters at most; got {len(identity)}")
    is_binary = _typed(_parameters(top, "the request"), "binary_data_output", bool, "the request", missing=False)
    outputs: list[AskedOutput] = []
    for told, entry in _entries(top["outputs"], "outputs") if "outputs" in top else ():
        found = unique(entry, told, {"name", "parameters"})
        name = _typed(found, "name", str, told)
        parameters = _parameters(found, f"output {name[:40]!r}")
        if _ELSEWHERE in parameters:
            raise MalformedBody(f"output {name[:40]!r} is wanted in shared memory, which this server does not write")
        num_classes = _typed(parameters, "classification", int, f"output {name[:40]!r}", missing=0)
        if not 0 <= num_classes <= MAX_CLASSES:
            raise MalformedBody(f"output {name[:40]!r}: classification must be from 0 to {MAX_CLASSES}")
        binary = _typed(parameters, "binary_data", bool, f"output {name[:40]!r}", missing=is_binary)
        outputs.append(AskedOutput(name, binary, num_classes))
    if len({output.name for output in outputs}) != len(outputs):
        raise MalformedBody(f"one output is asked for twice, among {_quoted([output.name for output in outputs])}")
    return Asked(identity, tuple(outputs), is_binary)


def _entries(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, simdjson.Array) or (key == "inputs" and len(value) == 0) or len(value) > MAX_TENSORS:
        raise MalformedBody(f'"{key}" must be a list of 1 to {MAX_TENSORS} objects')
    for index, entry in enumerate(value):
        if not isinstance(entry, simdjson.Object):
            raise MalformedBody(f'"{key}"[{index}] must be an object; got {json_lists.kind(entry)}')
        yield f'"{key}"[{index}]', entry


def _parameters(found: dict[str, Any], told: str) -> dict[str, Any]:
    value = found.get("parameters")
    if value is None:
        return {}
    if not isinstance(value, simdjson.Object):
        raise MalformedBody(f"the parameters of {told} must be an object")
    return unique(
        value,
        f"the parameters of {told}",
        {"binary_data_size", "binary_data", "binary_data_output", "classification", _ELSEWHERE},
    )


def _typed(found: dict[str, Any], key: str, kind: type, told: str, missing: Any = ...) -> Any:
    """What stands under a key, if it is of this kind; `missing` where there is none, if there need not be one."""
    value = found.get(key)
    if value is None and missing is not ...:
        return missing
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a text", int: "a whole number", bool: "true or false"}
        raise MalformedBody(f"{told}: {key} must be {names[kind]}; got {json_lists.kind(value)}")
    return value


def _told(specs: tuple[InputSpec, ...] | None) -> str:
    return _quoted([INPUT] if specs is None else [spec.name for spec in specs])


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:8])
