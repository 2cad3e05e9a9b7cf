"""Groups of options: what several commands take together is one dataclass, and one parameter of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def composed(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters may be groups: each option of a group is one of the command, in the group's place.

    Args:
        command: takes everything by keyword; a parameter annotated with a dataclass is a group, and its fields are
            annotated as options are.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        group = groups.get(name)
        if group is None:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        options = get_type_hints(group, include_extras=True)
        parameters += [
            parameter.replace(name=field.name, default=field.default, annotation=options[field.name])
            for field in fields(group)
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        filled = {name: group(**{f.name: given.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        command(**given, **filled)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what typer looks at
    return run
