"""What is sent where nobody says: the archive's example, or pictures where the model takes any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from smartbatch.errors import SmartBatchError
from smartbatch.server.archives import Archive
from smartbatch_load.load.payloads import PayloadSettings
from smartbatch_load.load.target import Target
from smartbatch_worker.contract import media_types
from smartbatch_worker.contract.description import as_description, told_example
from smartbatch_worker.contract.shapes import takes_pictures


def payload_for(
    payload: PayloadSettings, target: Target, folder: Path, report: Callable[[str], None]
) -> PayloadSettings:
    """What to send to a model that is served, by what its worker says of it.

    Args:
        payload: what the user asks for; beats all else, where it is not the default.
        target: with its model READY.
        folder: where an example is laid, to be sent from.
        report: told what is sent.

    Raises:
        ValueError: it takes no pictures, and there is no example.
    """
    if payload.bodies or not payload.is_default or target.management is None:
        return payload
    try:
        described = target.management.describe(target.model, customized=True, timeout_s=60.0).customized
    except SmartBatchError:
        return payload
    about = as_description(described)
    if about is None:  # another handler, which says nothing: pictures, as ever
        return payload
    return choose(payload, about["config"], told_example(about), folder, report)


def payload_for_archive(
    payload: PayloadSettings, store: Path, model: str, folder: Path, report: Callable[[str], None]
) -> PayloadSettings:
    """The same of a model that is not served yet, by its archive; one that is not there yet is of pictures."""
    path = next((path for path in (store / f"{model}.mar", store / model) if path.exists()), None)
    if payload.bodies or not payload.is_default or path is None:
        return payload
    archive = Archive(path)
    config = archive.config()
    return payload if config is None else choose(payload, config, archive.example(config), folder, report)


def choose(
    payload: PayloadSettings,
    config: Mapping[str, Any],
    example: tuple[bytes, str] | None,
    folder: Path,
    report: Callable[[str], None],
) -> PayloadSettings:
    """The example, laid into `folder`, else pictures.

    Raises:
        ValueError: there is none, and the model takes no pictures.
    """
    if example is not None:
        body, content_type = example
        suffix = next((suffix for suffix, kind in media_types.BY_SUFFIX.items() if kind == content_type), "")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"example{suffix}"
        path.write_bytes(body)
        report("Sending the archive's example (--body FILE, or a folder, sends yours)")
        return replace(payload, bodies=(path,))
    inputs = config.get("inputs")
    if inputs:
        is_of_pictures = len(inputs) == 1 and all(spec.get("image") for spec in inputs.values())
        takes = f"inputs {', '.join(inputs)}"
    else:
        # Any shape is what nobody said anything of: a handler of the user's own may well read pictures.
        shape = config.get("input_shape")
        is_of_pictures = shape is None or takes_pictures(shape, len(config.get("image_mean") or ()))
        takes = f"items of shape {shape}"
    if not is_of_pictures:
        raise ValueError(
            f"the model takes {takes}, not pictures, and its archive has no example: give --body FILE, or a folder of "
            "such, or build the archive with `smartbatch archive --example FILE`"
        )
    return payload
