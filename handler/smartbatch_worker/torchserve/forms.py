"""A multipart form: which of its fields is the body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smartbatch_worker.errors import MalformedBody

FIELDS = "smartbatch: fields"
"""Stands for the fields of a request of several: TorchServe keeps them by name, and would lose one of two of a name."""

_MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class FormField:
    """One field as TorchServe's frontend hands it over."""

    name: str
    content_type: str
    """Of a file always something; of a text, and of what is no form's, ""."""
    value: Any


def fields_of(data: Mapping[str, Any], headers: Mapping[str, Any]) -> list[FormField]:
    """A request's fields, in their order, however they were read."""
    if FIELDS in data:
        return list(data[FIELDS])
    return [FormField(name, _content_type(headers.get(name)), value) for name, value in data.items()]


def _content_type(header: Any) -> str:
    """TorchServe puts a field's content type among the request's headers, as a dict under the field's name."""
    return str(header.get("content-type") or "") if isinstance(header, Mapping) else ""


def pick(fields: Sequence[FormField], is_multipart: bool) -> FormField | None:
    """The field that is the body; None of a request without any.

    A request that is no form has the field `body`, and may have further ones from its URL's query; gRPC names its
    fields itself. A form has one file, whatever text stands beside it, as browsers send it; or it is one field alone.

    Raises:
        MalformedBody: a form of several files, or of several fields and no file; what was found is named.
    """
    if not is_multipart:
        for name in ("body", "data"):
            if named := [field for field in fields if field.name == name]:
                return named[-1]  # the frontend puts the query's before it
        if len(fields) <= 1:
            return fields[0] if fields else None
        raise MalformedBody(f"one body is accepted, named body or data; found {_named(fields)}")
    files = [field for field in fields if field.content_type]
    if len(files) == 1:
        return files[0]
    if files:
        raise MalformedBody(f"a form may hold one file; found {len(files)}: {_named(files)}. Send one request a file")
    if len(fields) == 1:
        return fields[0]
    if fields:
        raise MalformedBody(f"a form must hold one file; found none among its {len(fields)} fields: {_named(fields)}")
    raise MalformedBody("a form must hold one file; found no fields at all")


def _named(fields: Sequence[FormField]) -> str:
    names = ", ".join(repr(field.name[:40]) for field in fields[:_MAX_NAMED])
    return names if len(fields) <= _MAX_NAMED else f"{names}, …"
