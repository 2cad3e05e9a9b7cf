"""The files of a Hugging Face folder, read as far as an archive needs them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbatch.archive.settings import ArchiveError

CONFIG, TOKENIZER, PICTURES = "config.json", "tokenizer.json", "preprocessor_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_GGUF = "*.gguf"
_OTHER_FOLDERS = {
    "adapter_config.json": "holds an adapter, not a model: put it into its model first, "
    "PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(FOLDER)",
    "model_index.json": "holds a pipeline of diffusers, which is not served: a model.py can hold one of its models",
}
"""By the file that tells: what a folder without a config.json is."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One model's folder."""

    path: Path

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None where there is no such file.

        Raises:
            ArchiveError: the file holds something else.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise ArchiveError(f"{path}: malformed JSON ({error})") from error
        if not isinstance(loaded, dict):
            raise ArchiveError(f"{path}: must hold a JSON object")
        return loaded

    def config(self) -> dict[str, Any]:
        """config.json, which says what the model is."""
        config = self.json(CONFIG)
        if config is None:
            for name, told in _OTHER_FOLDERS.items():
                if (self.path / name).is_file():
                    raise ArchiveError(f"{self.path}: {told}")
            raise ArchiveError(
                f"{self.path}: has no {CONFIG}, so it is no Hugging Face model (save_pretrained(FOLDER) writes one)"
            )
        return config

    def weights(self) -> list[str]:
        """Names of the safetensors, and of their index where there are several.

        Raises:
            ArchiveError: there are none; other formats may run code when they are read.
        """
        if (self.path / _WEIGHTS).is_file():
            return [_WEIGHTS]
        index = self.json(_INDEX)
        if index is None:
            if gguf := sorted(found.name for found in self.path.glob(_GGUF)):
                raise ArchiveError(
                    f"{self.path}: has no {_WEIGHTS}, only {gguf[0]}, which llama.cpp and vLLM serve; give the folder "
                    "that it was made from, with safetensors"
                )
            other = sorted(found.name for pattern in _PICKLED for found in self.path.glob(pattern))
            told = f"only {other[0]}, which may run code when it is read" if other else "no weights"
            raise ArchiveError(
                f"{self.path}: has no {_WEIGHTS}, {told}; where you trust the model, load it and write it anew: "
                "model.save_pretrained(FOLDER, safe_serialization=True)"
            )
        shards = index.get("weight_map")
        names = sorted(set(shards.values())) if isinstance(shards, dict) else []
        # What a file says is not taken for a path: a name with folders in it would lead out of this one.
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ArchiveError(f"{self.path / _INDEX}: must name the files of the weights, which lie beside it")
        if lost := [name for name in names if not (self.path / name).is_file()]:
            raise ArchiveError(f"{self.path}: {lost[0]} is missing, which {_INDEX} names")
        return [_INDEX, *names]

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer, in a form that is read here."""
        return (self.path / TOKENIZER).is_file()

    def needs_tokenizer(self) -> None:
        """Raises:
        ArchiveError: there is no tokenizer.json.
        """
        if not self.has_tokenizer:
            raise ArchiveError(
                f"{self.path}: has no {TOKENIZER}; where transformers can read the folder's tokenizer, it writes one: "
                f"AutoTokenizer.from_pretrained({str(self.path)!r}).save_pretrained({str(self.path)!r})"
            )
