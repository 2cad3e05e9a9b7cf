"""torchvision's transforms in a handler's source, as settings of SmartBatch's own reader of pictures."""

from __future__ import annotations

import ast
from typing import Any

from smartbatch_worker.contract.shapes import IMAGENET_MEAN, IMAGENET_STD

from smartbatch.migrate.source import HandlerSource, dotted

DEFAULTS: dict[str, Any] = {
    "image_resize": 256,
    "image_crop": 224,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "image_interpolation": "bilinear",
}


_MODES = ("bilinear", "bicubic", "nearest")


def transforms_of(source: HandlerSource) -> tuple[int, list[ast.expr]] | None:
    """The steps of the first `Compose([…])` that class, module or a method has, and its line."""
    trees: list[ast.AST] = [node.value for node in source.values.values()]
    trees += [method.node for method in source.methods.values()]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] == "Compose" and node.args:
                steps = node.args[0]
                if isinstance(steps, (ast.List, ast.Tuple)):
                    return node.lineno, steps.elts
    return None


def settings_of(steps: list[ast.expr]) -> dict[str, Any] | str:
    """What the reader is to be told so that it does the same.

    Returns:
        Keys of model-config.yaml that differ from their defaults; or which step it cannot do.
    """
    found: dict[str, Any] = {}
    for step in steps:
        name = dotted(step.func).rpartition(".")[2] if isinstance(step, ast.Call) else ""
        if name in ("ToTensor", "PILToTensor", "ToImage", "ConvertImageDtype", "ToDtype"):
            continue
        values = _values(step) if isinstance(step, ast.Call) else None
        if values is None:
            return f"{ast.unparse(step)[:60]} (its values are not written there)"
        if name in ("Resize", "CenterCrop"):
            side = values.get("size")
            side = side[0] if isinstance(side, (list, tuple)) and len(set(side)) == 1 else side
            mode = values.get("interpolation", "bilinear")
            if not isinstance(side, int) or set(values) - {"size", "antialias", "interpolation"} or mode not in _MODES:
                return ast.unparse(step)[:60]
            if name == "Resize":
                found["image_interpolation"] = mode
            found["image_resize" if name == "Resize" else "image_crop"] = side
        elif name == "Normalize" and {"mean", "std"} <= set(values):
            found |= {"image_mean": list(values["mean"]), "image_std": list(values["std"])}
        else:
            return ast.unparse(step)[:60]
    if not {"image_resize", "image_crop"} & set(found):
        return "no Resize and no CenterCrop: pictures stay as large as they come"
    if "image_mean" not in found:
        found |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    found.setdefault("image_crop", found.get("image_resize"))
    found.setdefault("image_resize", found["image_crop"])
    return {key: value for key, value in found.items() if value != DEFAULTS[key]}


def _values(call: ast.Call) -> dict[str, Any] | None:
    """The arguments of a transform by name, the positional ones in torchvision's order; None: they are not literals."""
    name = dotted(call.func).rpartition(".")[2]
    order = {"Normalize": ("mean", "std")}.get(name, ("size", "interpolation"))
    try:
        given = {key: _value(value) for key, value in zip(order, call.args, strict=False)}
        return given | {each.arg: _value(each.value) for each in call.keywords if each.arg is not None}
    except ValueError:
        return None


def _value(node: ast.expr) -> Any:
    """A literal, or the last part of InterpolationMode.BICUBIC or Image.BICUBIC."""
    name = dotted(node).rpartition(".")[2].lower()
    return name if name in _MODES else ast.literal_eval(node)
