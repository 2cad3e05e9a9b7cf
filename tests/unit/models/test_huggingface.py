"""Hugging Face folders: loaded unchanged, for a task, and refused in words where a part is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import ModelLoadError, build_model, describe_weights

from tests import small_transformers

IDS = {"dtype": "int64", "shape": ["L"], "pad": 0}
TEXT = {"input_ids": IDS, "attention_mask": IDS}


def build(folder: Path, task: str | None, **keys: Any) -> torch.nn.Module:
    return build_model(config(task, **keys), folder)


def config(task: str | None, **keys: Any) -> WorkerConfig:
    return WorkerConfig.resolve({"model": "config.json", "task": task, "inputs": TEXT, "input_shape": None} | keys, {})


def refusal(folder: Path, task: str | None, **keys: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        build(folder, task, **keys)
    return str(caught.value)


def batch(*rows: list[int], left: bool = False) -> dict[str, torch.Tensor]:
    """Rows padded with 0 to the longest."""
    width = max(map(len, rows))
    ids = [[0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in rows]
    mask = [
        [0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row)) for row in rows
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


ROWS = ([2, 30, 40, 50, 3], [2, 60, 3], [2, 70, 80, 3])


def test_huggingface_folder(tmp_path: Path) -> None:
    plain = small_transformers.bert(tmp_path, "ForSequenceClassification", num_labels=3)
    module = build(tmp_path, "text-classification")
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    with torch.inference_mode():
        logits = module(**batch(*ROWS))
        for row, found in zip(ROWS, logits, strict=True):
            torch.testing.assert_close(found, plain(input_ids=torch.tensor([row])).logits[0], rtol=0, atol=1e-5)
    assert describe_weights(config("text-classification")) == "file *.safetensors beside config.json"


def test_code_that_a_folder_brings_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}))
    (tmp_path / "mine.py").write_text("raise SystemExit('code ran')")
    (tmp_path / "model.safetensors").touch()
    said = refusal(tmp_path, "feature-extraction")
    assert "code that a model brings along is not run: a model.py that holds it is" in said


def test_tokens_are_classified_each(tmp_path: Path) -> None:
    plain = small_transformers.bert(tmp_path, "ForTokenClassification", num_labels=5)
    with torch.inference_mode():
        logits = build(tmp_path, "token-classification")(**batch(*ROWS))
        assert logits.shape == (3, 5, 5)
        expected = plain(input_ids=torch.tensor([ROWS[1]])).logits[0]
    torch.testing.assert_close(logits[1, :3], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("mean", False), ("cls", True)])
def test_embeddings_are_pooled_without_padding(tmp_path: Path, pooling: str, normalize: bool) -> None:
    plain = small_transformers.bert(tmp_path, "Model")
    with torch.inference_mode():
        found = build(tmp_path, "feature-extraction", pooling=pooling, normalize=normalize)(**batch(*ROWS))
        for row, vector in zip(ROWS, found, strict=True):
            hidden = plain(input_ids=torch.tensor([row])).last_hidden_state[0]
            expected = hidden.mean(0) if pooling == "mean" else hidden[0]
            expected = expected / expected.norm() if normalize else expected
            torch.testing.assert_close(vector, expected, rtol=0, atol=1e-5)


def test_vectors_of_a_model_that_has_no_pooler(tmp_path: Path) -> None:
    """One trained to guess words, as most embedders begin: its head is left out."""
    small_transformers.bert(tmp_path, "ForMaskedLM")
    assert build(tmp_path, "feature-extraction")(**batch(*ROWS)).shape == (3, 32)


PROMPTS = ([10, 20, 30, 40, 50, 60], [70, 80], [90, 100, 110])


def generation(folder: Path, **keys: Any) -> torch.nn.Module:
    ids = {**IDS, "pad_side": "left"}
    return build(folder, "text-generation", inputs={"input_ids": ids, "attention_mask": ids}, max_new_tokens=8, **keys)


def test_generation_together_is_generation_alone(tmp_path: Path) -> None:
    plain = small_transformers.gpt2(tmp_path, eos_token_id=None)
    module = generation(tmp_path)
    with torch.inference_mode():
        together = module(**batch(*PROMPTS, left=True))
        for prompt, found in zip(PROMPTS, together, strict=True):
            row = list(prompt)
            for _ in range(8):  # the likeliest token, one after the other
                row.append(int(plain(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
            assert found.tolist() == row[len(prompt) :]


def test_generation_stops_where_the_model_ends_its_text(tmp_path: Path) -> None:
    small_transformers.gpt2(tmp_path, eos_token_id=None)
    with torch.inference_mode():
        whole = generation(tmp_path)(**batch(*PROMPTS, left=True))[0].tolist()
    end = whole[3]
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(
        json.dumps(settings | {"eos_token_id": [end, 399], "do_sample": True})
    )
    with torch.inference_mode():
        found = generation(tmp_path)(**batch(*PROMPTS, left=True))
    assert found[0].tolist() == whole[: whole.index(end)]


def test_images(tmp_path: Path) -> None:
    plain: Any = small_transformers.vit(tmp_path)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            build(tmp_path, "image-classification", inputs=None)(images), plain(pixel_values=images).logits
        )


def test_a_head_that_is_not_in_the_file_is_not_made_up(tmp_path: Path) -> None:
    small_transformers.bert(tmp_path, "ForMaskedLM")
    message = refusal(tmp_path, "text-classification")
    assert str(tmp_path) in message
    assert "'classifier.bias'" in message
    assert "not trained for text-classification" in message


def test_broken_folders(tmp_path: Path) -> None:
    small_transformers.bert(tmp_path, "ForSequenceClassification")
    assert "task must be one of text-classification" in refusal(tmp_path, None)
    assert "cannot be put in it" in refusal(tmp_path, "text-classification", weights="w.pth")
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "transformers cannot load it" in refusal(tmp_path, "text-classification")
    weights.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "no *.safetensors" in refusal(tmp_path, "text-classification")
    weights.write_bytes(whole)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"hidden_size": 64}))
    assert "shape" in refusal(tmp_path, "text-classification")
    (tmp_path / "config.json").write_text("{")
    assert "transformers cannot load it" in refusal(tmp_path, "text-classification")
    (tmp_path / "config.json").unlink()
    assert "no such file" in refusal(tmp_path, "text-classification")


def test_code_in_a_folder_does_not_run(tmp_path: Path) -> None:
    small_transformers.bert(tmp_path, "ForSequenceClassification")
    settings = json.loads((tmp_path / "config.json").read_text())
    auto_map = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps(settings | {"model_type": "own", "auto_map": auto_map}))
    (tmp_path / "own.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    refusal(tmp_path, "text-classification")
    assert not (tmp_path / "ran").exists()


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'smartbatch[hf]'" in refusal(tmp_path, "text-classification")
