"""What becomes of a handler, part by part, and the archive command to type."""

from __future__ import annotations

import ast
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from smartbatch.migrate.bases import BASES, Base
from smartbatch.migrate.pictures import settings_of, transforms_of
from smartbatch.migrate.rules import RULES, TOKENS, tokenises
from smartbatch.migrate.source import HandlerSource, Method

OURS = "SmartBatchHandler"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the handler."""

    line: int
    part: str
    becomes: str
    by_hand: bool = False


@dataclass(slots=True)
class Advice:
    """All of it."""

    file: str
    handler: str
    base: str
    findings: list[Finding]
    command: str
    """To type once the rest is done; "" where SmartBatch cannot serve it."""

    @property
    def num_by_hand(self) -> int:
        """How many parts somebody has to change."""
        return sum(finding.by_hand for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "by_hand": self.num_by_hand}

    def text(self) -> str:
        """For people."""
        name = f"{self.handler}({self.base})" if self.base else self.handler
        width = max((len(finding.part) for finding in self.findings), default=0)
        lines = [f"{self.file}: {name}"]
        for finding in self.findings:
            mark = "BY HAND: " if finding.by_hand else ""
            lines.append(f"  line {finding.line:<4} {finding.part:<{width}}  {mark}{finding.becomes}")
        if self.command:
            lines += ["", "The archive:" if not self.num_by_hand else "Then the archive:", f"  {self.command}"]
        count = self.num_by_hand
        lines += ["", "Nothing needs a hand." if not count else f"{count} of {len(self.findings)} need a hand."]
        return "\n".join(lines)


@dataclass(slots=True)
class _Archive:
    """What is given to `smartbatch archive`."""

    options: list[str]
    needs_handler: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def advise(source: HandlerSource) -> Advice:
    """Go through a handler's source."""
    base = BASES.get(source.name) or BASES.get(source.base) or (BASES["BaseHandler"] if source.base != OURS else None)
    archive = _Archive(shlex.split((base or BASES["BaseHandler"]).options))
    findings = [
        Finding(source.line, name, "TorchServe takes a handler's file with one class: a file of its own", True)
        for name in source.others
    ]
    if base is not None and (source.name in BASES or source.base in BASES):
        told = source.name if source.name in BASES else source.base
        findings.append(Finding(source.line, told, base.advice, base.by_hand))
    if source.name not in BASES:
        findings += _value_findings(source, base, archive)
        for method in sorted(source.methods.values(), key=lambda each: each.line):
            findings += _of_method(source, method, base, archive)
    command = ""
    if base is None or base.options:
        handler = ["--handler", source.file.name] if archive.needs_handler else []
        chosen = [part for key, value in archive.settings.items() for part in ("--set", f"{key}={_spelled(value)}")]
        bare = ["--set", "envelope=bare"]
        command = shlex.join(["smartbatch", "archive", *archive.options, *handler, *chosen, *bare])
    return Advice(str(source.file), source.name, source.base, findings, command)


def _value_findings(source: HandlerSource, base: Base | None, archive: _Archive) -> list[Finding]:
    findings = []
    node = source.values.get("topk")
    if node is not None and isinstance(node.value, ast.Constant) and isinstance(node.value.value, int):
        archive.settings["topk"] = node.value.value
        findings.append(Finding(node.lineno, "topk", f"--set topk={node.value.value:d}"))
    found = transforms_of(source)
    if found is not None:
        line, steps = found
        settings = settings_of(steps)
        if isinstance(settings, str):
            archive.needs_handler = True
            text = f"pictures are not read so without code: {settings}; a preprocess_item of yours reads one"
            findings.append(Finding(line, "transforms", text, True))
        else:
            archive.settings |= settings
            told = " ".join(f"--set {key}={_spelled(value)}" for key, value in settings.items())
            findings.append(Finding(line, "transforms", told or "as SmartBatch reads pictures by itself"))
    return findings


def _of_method(source: HandlerSource, method: Method, base: Base | None, archive: _Archive) -> list[Finding]:
    rule = RULES.get(method.name)
    if source.base == OURS:
        archive.needs_handler = True
        if method.name not in ("preprocess", "postprocess") or f"{method.name}_item" in source.methods:
            rule = None  # it is at home here, or a helper
    if rule is None:
        is_topk = method.name in ("set_max_result_classes", "get_max_result_classes")
        stays = "stays" if source.base == OURS else "stays if what calls it stays"
        return [Finding(method.line, method.name, "goes: --set topk=N" if is_topk else stays)]
    if isinstance(method.node, ast.AsyncFunctionDef):
        return [Finding(method.line, method.name, "is async, and no method of a handler may be: make it plain", True)]
    becomes, by_hand, is_kept = rule(source, method, base)
    archive.needs_handler = archive.needs_handler or is_kept
    if method.name == "preprocess" and tokenises(method):
        archive.options = [*_without_shape(archive.options), *shlex.split(TOKENS)]
    finding = Finding(method.line, method.name, becomes, by_hand)
    return [finding, *(_unknown_attributes(source, method) if is_kept else [])]


def _without_shape(options: list[str]) -> list[str]:
    at = options.index("--input-shape") if "--input-shape" in options else len(options)
    return options[:at] + options[at + 2 :]


_ATTRIBUTES = {
    "mapping": "self.labels, the class names in order",
    "manifest": "context.manifest, in initialize(self, context)",
    "context": "context, in initialize(self, context); a request's headers are preprocess_item's",
    "model_yaml_config": "context.model_yaml_config, in initialize(self, context)",
    "map_location": "self.device",
    "model_pt_path": "nothing: the worker loads the model",
    "image_processing": "the transforms, in an attribute of yours",
    "source_vocab": "a vocabulary of yours, in --extra-files",
    "tokenizer": "a tokenizer of yours, made in initialize(self, context)",
}
"""Of BaseHandler and its kin, that a SmartBatchHandler has not."""


def _unknown_attributes(source: HandlerSource, method: Method) -> list[Finding]:
    own = source.assigned() | set(source.values) | set(source.methods)
    return [
        Finding(line, f"self.{name}", f"is {_ATTRIBUTES[name]}", True)
        for name, line in method.reads.items()
        if name in _ATTRIBUTES and name not in own
    ]


def _spelled(value: Any) -> str:
    return ",".join(f"{entry:g}" for entry in value) if isinstance(value, list) else str(value)
