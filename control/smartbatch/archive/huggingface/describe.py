"""What a Hugging Face model is for, what it takes, and how it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smartbatch_worker.contract.config import TASKS

from smartbatch.archive.huggingface import lengths, pictures, pooling
from smartbatch.archive.huggingface.folder import CONFIG, PICTURES, TOKENIZER, Folder
from smartbatch.archive.settings import ArchiveError

PLACE = "hf"
"""The folder's name in the archive."""
EXAMPLE = {"text": "Requests of many clients share one forward."}

_BY_ENDING = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "Model": "feature-extraction",
}
"""By how the class's name ends, in the order in which they are asked."""


@dataclass(slots=True)
class Described:
    """What goes into the archive."""

    section: dict[str, Any]
    """Keys of the handler's section."""
    files: dict[str, Path]
    """By their place in the archive."""
    labels: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    """What the user should know."""
    example: dict[str, Any] | None = None
    """A request's JSON that the model can take; None where the check makes one."""


def describe(path: Path, task: str | None, overrides: Mapping[str, str]) -> Described:
    """Read a folder.

    Args:
        path: the folder.
        task: as the user said it; None: as config.json's architectures tell.
        overrides: keys that the user sets, which beat what the folder says.

    Raises:
        ArchiveError: it is no folder of a model that can be served; the message says what is.
    """
    folder = Folder(path)
    config = folder.config()
    task = task or _task_of(folder, config)
    if config.get("is_encoder_decoder") and task in ("text-generation", "feature-extraction"):
        raise ArchiveError(
            f"{path}: is a model of encoder and decoder, which is not taken for {task}: a model.py with named inputs "
            "can wrap it"
        )
    if task == "feature-extraction" and (told := _other_than_text(folder, config)):
        raise ArchiveError(
            f"{path}: {told}, and {task} is of texts: a model.py that holds it, and gives the vector, is served"
        )
    weights = folder.weights()
    names = [CONFIG, *weights, *(["generation_config.json"] if task == "text-generation" else [])]
    described = Described(
        section={
            "model": f"{PLACE}/{CONFIG}",
            "task": task,
            "weights_source": "file",
            "weights_note": f"file {path.resolve().name}/{weights[0]}",
        },
        files={f"{PLACE}/{name}": path / name for name in names if (path / name).is_file()},
        labels=_labels(config) if task.endswith("-classification") else None,
    )
    if task == "image-classification":
        described.section |= pictures.keys(folder, config)
        return described
    folder.needs_tokenizer()
    described.files[f"{PLACE}/{TOKENIZER}"] = path / TOKENIZER
    described.section |= {"tokenizer": f"{PLACE}/{TOKENIZER}", **_of_text(folder, config, task, overrides, described)}
    described.example = EXAMPLE
    return described


def _task_of(folder: Folder, config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures") or []
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if name.endswith(("ForMaskedLM", "ForPreTraining")):
        raise ArchiveError(
            f"{folder.path}: {name} was trained to guess words, which is not served; --task feature-extraction takes "
            "its vectors as embeddings"
        )
    for ending, task in _BY_ENDING.items():
        if name.endswith(ending):
            return task
    told = f"{name} is not one of these" if name else f"{CONFIG} names no architecture"
    raise ArchiveError(
        f"{folder.path}: --task must be one of {', '.join(TASKS)}, and cannot be told: {told}. A model for anything "
        "else is served by a model.py that holds it, with an --input for each of its inputs"
    )


def _other_than_text(folder: Folder, config: Mapping[str, Any]) -> str | None:
    """What a model that gives vectors takes, where that is no text alone."""
    for part, taken in {"vision_config": "pictures", "audio_config": "sounds"}.items():
        if part in config:
            return f"is a model of texts and {taken} together ({CONFIG} has a {part})"
    if not folder.has_tokenizer and (folder.path / PICTURES).is_file():
        return f"is a model of pictures or sounds (it has a {PICTURES} and no {TOKENIZER})"
    return None


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    """Class names in the order of their numbers; None where there are none."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    try:
        return [str(names[str(index)]) for index in range(len(names))]
    except KeyError as error:
        raise ArchiveError(f"{CONFIG}: id2label must run from 0 without gaps; {error} is missing") from None


def _of_text(
    folder: Folder, config: Mapping[str, Any], task: str, overrides: Mapping[str, str], described: Described
) -> dict[str, Any]:
    """What a model of text takes and gives."""
    side = {"pad_side": "left"} if task == "text-generation" else {}
    inputs = {"input_ids": {"dtype": "int64", "shape": ["L"], "pad": _pad_of(folder, config), **side}}
    inputs["attention_mask"] = {"dtype": "int64", "shape": ["L"], "pad": 0, **side}
    if int(config.get("type_vocab_size") or 0) > 1 and task != "text-generation":
        inputs["token_type_ids"] = {"dtype": "int64", "shape": ["L"], "pad": 0}
    longest = lengths.longest(folder, config, task, overrides)
    keys: dict[str, Any] = {"max_length": longest, "inputs": inputs}
    if task == "text-generation":
        keys["output"] = "text"
    elif task == "feature-extraction":
        keys |= {"output": "raw", **pooling.keys(folder, described.notes)}
    elif task == "token-classification":
        keys |= {"outputs": ["L", None], "output": "labels"}
    elif config.get("problem_type") == "multi_label_classification":
        keys["output"] = "raw"
        described.notes.append("several labels may hold at once: answers are raw scores, one a label, before a sigmoid")
    elif len(described.labels or ()) == 1:
        keys["output"] = "raw"
        described.notes.append("the model gives one number a text, not classes: answers are that number")
    return keys


def _pad_of(folder: Folder, config: Mapping[str, Any]) -> int:
    """The token that a batch's shorter texts end with; masked, so that any would do where the model has none."""
    generation = folder.json("generation_config.json") or {}
    for found in (config.get("pad_token_id"), generation.get("pad_token_id"), config.get("eos_token_id")):
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, int) and first >= 0:
            return first
    return 0
