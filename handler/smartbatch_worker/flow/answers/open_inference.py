"""Answers in the Open Inference Protocol: tensors by name, in JSON or as bytes behind it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from smartbatch_worker.contract.open_inference import DATATYPES, OUTPUT, TEXTS
from smartbatch_worker.errors import MalformedBody, ModelRejected
from smartbatch_worker.flow import encode
from smartbatch_worker.flow.answers.tensor_files import name_tensors
from smartbatch_worker.formats.open_inference.asked import Asked, AskedOutput

_MAX_TOLD = 8

Output: TypeAlias = torch.Tensor | list[str]


@dataclass(frozen=True, slots=True)
class Served:
    """Which model answers, as it is registered."""

    name: str
    version: str


def write(
    answers: Sequence[Any],
    has_batch_dim: bool,
    asked: Asked,
    served: Served,
    labels: Sequence[str] | None,
    max_bytes: int,
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many bytes of it are JSON where binary tensors follow.

    Args:
        answers: one an item: tensors in any nesting, or texts.
        has_batch_dim: whether the request had N items, so that outputs have N in front.
        asked: which outputs, in which form and order.
        served: the model.
        labels: class names in index order, for classifications.
        max_bytes: the most that the frontend takes.

    Raises:
        MalformedBody: an output that the model does not give.
        ModelRejected: an output is no tensor, or of a type that the protocol has not.
        AnswerTooLarge: it has more than `max_bytes`.
    """
    found = _outputs(answers, has_batch_dim)
    wanted = asked.outputs or tuple(AskedOutput(name, asked.is_binary) for name in found)
    entries: list[dict[str, Any]] = []
    parts: list[Any] = []
    num_listed = 0
    for output in wanted:
        if output.name not in found:
            told = ", ".join(repr(name) for name in list(found)[:_MAX_TOLD])
            raise MalformedBody(f"there is no output {output.name[:40]!r}; the model gives {told}")
        value, shape = found[output.name], _shape(found[output.name], has_batch_dim)
        if output.num_classes:
            value, shape = _classified(output, value, has_batch_dim, labels)
        entry: dict[str, Any] = {"name": output.name, "datatype": _datatype(output.name, value), "shape": shape}
        if output.is_binary:
            parts.append(_bytes(value))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = value if isinstance(value, list) else encode.to_plain(value.reshape(-1))
            num_listed += len(entry["data"])
        entries.append(entry)
    document: dict[str, Any] = {"model_name": served.name, "model_version": served.version, "outputs": entries}
    if asked.id is not None:
        document["id"] = asked.id
    encode.check_size(sum(map(len, parts)) + encode.MIN_JSON_BYTES * num_listed, max_bytes)
    text = encode.to_json(document)
    encode.check_size(len(text), max_bytes)
    if not any(output.is_binary for output in wanted):
        return text, None
    body = b"".join((text, *parts))
    encode.check_size(len(body), max_bytes)
    return body, len(text)


def _outputs(answers: Sequence[Any], has_batch_dim: bool) -> dict[str, Output]:
    if all(isinstance(answer, str) for answer in answers):
        return {OUTPUT: list(answers)}
    return dict(name_tensors(answers, has_batch_dim))


def _shape(value: Output, has_batch_dim: bool) -> list[int]:
    if isinstance(value, list):
        return [len(value)] if has_batch_dim else []
    return list(value.shape)


def _datatype(name: str, value: Output) -> str:
    if isinstance(value, list):
        return TEXTS
    kind = str(value.dtype)
    if kind not in DATATYPES:
        raise ModelRejected(f"output {name!r} is {kind}, for which the Open Inference Protocol has no datatype")
    return DATATYPES[kind]


def _classified(
    output: AskedOutput, value: Output, has_batch_dim: bool, labels: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """The best classes as Triton spells them: `score:index`, or `score:index:name`."""
    if (
        not isinstance(value, torch.Tensor)
        or value.ndim != 1 + has_batch_dim
        or value.is_complex()
        or value.dtype == torch.bool
        or value.numel() == 0
    ):
        raise ModelRejected(f"output {output.name[:40]!r} is no list of classes' scores, which classification needs")
    scores = encode.without_halves(value)
    best = scores.topk(min(output.num_classes, scores.shape[-1]))
    texts = [
        f"{score:f}:{index}" + (f":{labels[index]}" if labels and index < len(labels) else "")
        for score, index in zip(best.values.reshape(-1).tolist(), best.indices.reshape(-1).tolist(), strict=True)
    ]
    return texts, list(best.values.shape)


def _bytes(value: Output) -> Any:
    """What is sent of it: the tensor's own memory, or each text behind its length."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().reshape(-1).view(torch.uint8).numpy().data
    packed = (text.encode() for text in value)
    return b"".join(struct.pack("<I", len(text)) + text for text in packed)
