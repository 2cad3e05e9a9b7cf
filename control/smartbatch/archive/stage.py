"""Lay out a folder as a worker sees it after unpacking: handler, model, labels, model-config.yaml."""

from __future__ import annotations

import importlib.util
import json
import marshal
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import smartbatch_worker
import yaml

from smartbatch.archive.foreign import refuse_foreign
from smartbatch.archive.huggingface.describe import PLACE, describe
from smartbatch.archive.huggingface.hub import find
from smartbatch.archive.published.timm import choose_timm_weights
from smartbatch.archive.published.torchvision import choose_weights
from smartbatch.archive.published.weights import Weights
from smartbatch.archive.settings import DEFAULT_MODEL, ArchiveError, ArchiveSettings, parse_input, parse_length
from smartbatch.errors import UsageError
from smartbatch.installation import MODEL_CONFIG, files
from smartbatch.model_config import CONFIG_FILE, SECTION, apply_overrides, spelled

HANDLER_DIR = Path(smartbatch_worker.__file__).resolve().parent.parent
ENTRY_POINT = "smartbatch_handler.py"
LABELS_FILE = "index_to_name.json"
WEIGHTS_FILE = "weights.safetensors"
MODEL_FILE = "model.py"
TOKENIZER_FILE = "tokenizer.json"
TIMM_PREFIX = "timm/"

_NEVER_SHIPPED = ("__pycache__", "*.pyc", ".*")

_CHECKED_HASH = 0b11
"""Of bytecode (PEP 552): taken where it is of the source beside it, whenever that was unpacked."""
_WITHOUT_REFERENCES = 2
"""Marshal's newer formats depend on who else holds a string: not the same bytes for the same source."""


@dataclass(slots=True)
class Staged:
    """A staged archive: what lies in `folder`, and what is still to be done to it."""

    folder: Path
    title: str
    """The model, for messages."""
    entry_point: str = ENTRY_POINT
    """File TorchServe starts at."""
    frontend: dict[str, Any] = field(default_factory=dict)
    """TorchServe's own keys of model-config.yaml."""
    section: dict[str, Any] = field(default_factory=dict)
    """The `handler:` section."""
    weights_from: Path | None = None
    """State dict that the check turns into `section["weights"]`."""
    random_weights: bool = False
    """The check is to initialise `section["weights"]`."""
    origins: dict[str, Path] = field(default_factory=dict)
    """Staged file to the user's file, so that messages name the latter."""
    labels: list[str] | None = None
    """Class names, by index."""
    example: Path | None = None
    """A request's body for the check."""

    def write_config(self) -> None:
        """Write model-config.yaml from `frontend` and `section`."""
        text = spelled(self.frontend, self.section, "archive")
        (self.folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def stage(settings: ArchiveSettings, folder: Path, report: Callable[[str], None]) -> Staged:
    """Fill `folder` with everything the archive will hold, except weights that the check has to convert.

    Raises:
        UsageError: a setting breaks a rule.
        ArchiveError: a file cannot be used.
    """
    staged = Staged(folder, settings.archive_name, example=settings.example)
    shutil.copy(HANDLER_DIR / ENTRY_POINT, folder)
    shutil.copytree(
        HANDLER_DIR / smartbatch_worker.__name__,
        folder / smartbatch_worker.__name__,
        ignore=shutil.ignore_patterns(*_NEVER_SHIPPED),
    )
    for source in sorted(folder.rglob("*.py")):
        write_bytecode(HANDLER_DIR / source.relative_to(folder), source)
    _read_base_config(staged)
    _stage_model(settings, staged, report)
    if settings.handler is not None:
        staged.entry_point = settings.handler.name
        _add(staged, settings.handler, settings.handler.name)
    for extra in settings.extra_files:
        # As torch-model-archiver has it: of a folder, its contents.
        for path in sorted(extra.iterdir()) if extra.is_dir() else [extra]:
            if not any(path.match(pattern) for pattern in _NEVER_SHIPPED):
                _add(staged, path, path.name)
    _apply_overrides(settings, staged)
    if settings.example is not None:
        name = f"example{settings.example.suffix.lower()}"
        _add(staged, settings.example, name)
        staged.section["example"] = name
    if settings.labels is not None:
        staged.labels = read_labels(settings.labels)
    if staged.labels is not None:
        names = {str(index): name for index, name in enumerate(staged.labels)}
        text = json.dumps(names, ensure_ascii=False, indent=0)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")
    staged.write_config()
    return staged


def read_labels(path: Path) -> list[str]:
    """Read class names: a JSON list, JSON `{"0": name}` or `{"0": [id, name]}`, or one name per line.

    Raises:
        UsageError: the file is none of those, or its indexes have gaps.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--labels {path}: malformed JSON ({error})") from error
    if isinstance(loaded, dict):
        try:
            loaded = [loaded[str(index)] for index in range(len(loaded))]
        except KeyError as error:
            raise UsageError(f"--labels {path}: indexes must run from 0 without gaps; {error} is missing") from None
    if not isinstance(loaded, list):
        raise UsageError(f"--labels {path}: must hold a list, or an object of index to name")
    # TorchServe's own examples pair a name with its WordNet id, name last.
    return [str(name[-1] if isinstance(name, list) and name else name) for name in loaded]


def write_bytecode(installed: Path, staged: Path) -> None:
    """Write bytecode beside `staged`, a copy of `installed`: TorchServe unpacks an archive anew for each registration.

    Workers on another Python compile, as they would without it.

    Raises:
        SyntaxError: `installed` is no Python.
    """
    code = SourceFileLoader(installed.stem, str(installed)).get_code(installed.stem)  # compiled already, mostly
    assert code is not None
    digest = importlib.util.source_hash(staged.read_bytes())
    data = marshal.dumps(_named(code, staged.name), _WITHOUT_REFERENCES)
    target = Path(importlib.util.cache_from_source(str(staged)))
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(importlib.util.MAGIC_NUMBER + _CHECKED_HASH.to_bytes(4, "little") + digest + data)


def _named(code: CodeType, name: str) -> CodeType:
    """Of a file by that name, wherever it was: importing puts in where it is."""
    inner = (_named(const, name) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_filename=name, co_consts=tuple(inner))


def _read_base_config(staged: Staged) -> None:
    base = yaml.safe_load((files() / MODEL_CONFIG).read_text(encoding="utf-8"))
    staged.section = dict(base.pop(SECTION))
    staged.section.pop("model", None)
    staged.frontend = base


def _stage_model(settings: ArchiveSettings, staged: Staged, report: Callable[[str], None]) -> None:
    section = staged.section
    if settings.tokenizer is not None:
        section["tokenizer"] = TOKENIZER_FILE
        _add(staged, settings.tokenizer, TOKENIZER_FILE)
    if settings.hf is not None:
        _stage_huggingface(settings, settings.hf, staged, report)
        return
    if settings.model_path is not None:
        refuse_foreign(settings.model_path)
    if settings.num_classes is not None:
        section["num_classes"] = settings.num_classes
    if (program := settings.program) is not None:
        assert settings.model_path is not None
        if settings.model_file is not None:
            raise UsageError(
                f"{settings.model_path}: is a whole {program.name} program and brings its own code; "
                "leave out --model-file"
            )
        if (name := settings.model or settings.timm) is not None:
            report(f"{settings.model_path} is a whole {program.name} program: {name} is only the archive's name")
        section |= {"model": f"model{program.suffix}", "weights_source": "embedded"}
        section["weights_note"] = _ascii(f"embedded in {settings.model_path.name}")
        _add(staged, settings.model_path, section["model"])
    elif settings.model_file is not None:
        section["model"] = MODEL_FILE
        _add(staged, settings.model_file, MODEL_FILE)
        if settings.model_path is not None:
            _take_weights(staged, settings.model_path, "file", f"file {settings.model_path.name}")
        else:
            section["weights_note"] = _ascii(f"as {settings.model_file.name} builds them (no weights file)")
            report(f"no --model-path: the weights are whatever {settings.model_file} builds")
    elif settings.timm is not None:
        section["model"] = TIMM_PREFIX + settings.timm
        target = staged.folder / WEIGHTS_FILE
        _take_published(settings, staged, choose_timm_weights(settings, settings.timm, target, report))
    else:
        section["model"] = settings.model or DEFAULT_MODEL
        _take_published(settings, staged, choose_weights(settings, section["model"], report))


def _take_published(settings: ArchiveSettings, staged: Staged, weights: Weights) -> None:
    """Weights of a model that a library knows by name, with what belongs to them."""
    staged.section |= weights.image_keys
    _take_weights(staged, weights.path, weights.source, weights.note)
    if weights.is_staged:
        staged.weights_from = None
    if weights.categories and settings.num_classes in (None, len(weights.categories)):
        staged.labels = weights.categories


def _stage_huggingface(settings: ArchiveSettings, given: str, staged: Staged, report: Callable[[str], None]) -> None:
    folder = find(given, report)
    described = describe(folder, settings.task, settings.overrides)
    for line in described.notes:
        report(line)
    staged.section |= described.section
    staged.section["weights_note"] = _ascii(described.section["weights_note"])
    staged.labels = described.labels
    for name, path in described.files.items():
        _add(staged, path, name)
    staged.origins[PLACE] = folder  # behind its files, which are named with it
    if described.example is not None and settings.example is None:
        example = staged.folder / "example.json"
        example.write_text(json.dumps(described.example) + "\n", encoding="utf-8")
        staged.section["example"], staged.example = example.name, example


def _take_weights(staged: Staged, path: Path | None, source: str, note: str) -> None:
    staged.weights_from = path
    staged.random_weights = path is None
    staged.section |= {"weights": WEIGHTS_FILE, "weights_source": source, "weights_note": _ascii(note)}


def _apply_overrides(settings: ArchiveSettings, staged: Staged) -> None:
    given: dict[str, Any] = dict(settings.overrides)
    if settings.input_shape is not None:
        given["input_shape"] = settings.input_shape
    if settings.inputs:
        given["inputs"] = dict(parse_input(text) for text in settings.inputs)
    if settings.lengths:
        given["lengths"] = dict(parse_length(text) for text in settings.lengths)
    apply_overrides(staged.frontend, staged.section, given)


def _add(staged: Staged, source: Path, name: str) -> None:
    target = staged.folder / name
    if target.exists():
        raise UsageError(f"{source}: an archive already has a {name}; rename the file")
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_NEVER_SHIPPED))
    elif source.is_file():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    else:
        raise ArchiveError(f"{source}: is neither a file nor a folder")
    staged.origins[name] = source


def _ascii(note: str) -> str:
    """Notes travel in an HTTP header."""
    return note.encode("ascii", "replace").decode()
