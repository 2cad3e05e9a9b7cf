"""What a Hugging Face folder says of its model, as keys of the handler's section."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from smartbatch.archive.huggingface.describe import Described, describe
from smartbatch.archive.huggingface.hub import find
from smartbatch.archive.settings import ArchiveError, ArchiveSettings
from smartbatch.errors import UsageError

BERT = {"architectures": ["BertForSequenceClassification"], "max_position_embeddings": 512, "pad_token_id": 0}
VIT = {"architectures": ["ViTForImageClassification"], "id2label": {"0": "cat", "1": "dog"}}
PICTURES = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
PICTURES |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}


def folder(path: Path, config: dict[str, Any], **files: Any) -> Path:
    """A folder whose weights are there and empty: nothing here reads them."""
    path.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        (path / name).touch()
    for name, content in {"config": config, **files}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def described(path: Path, config: dict[str, Any], task: str | None = None, **files: Any) -> Described:
    return describe(folder(path, config, **files), task, {})


def refusal(path: Path, config: dict[str, Any], task: str | None = None, **files: Any) -> str:
    with pytest.raises(ArchiveError) as caught:
        described(path, config, task, **files)
    return str(caught.value)


def test_a_classifier_of_texts(tmp_path: Path) -> None:
    labels = {"0": "no", "1": "yes"}
    found = described(tmp_path / "bert", {**BERT, "type_vocab_size": 2, "id2label": labels})
    pad = {"dtype": "int64", "shape": ["L"], "pad": 0}
    assert found.section == {
        "model": "hf/config.json",
        "task": "text-classification",
        "weights_source": "file",
        "weights_note": "file bert/model.safetensors",
        "tokenizer": "hf/tokenizer.json",
        "max_length": 512,
        "inputs": {"input_ids": pad, "attention_mask": pad, "token_type_ids": pad},
    }
    assert found.labels == ["no", "yes"]
    assert set(found.files) == {"hf/config.json", "hf/model.safetensors", "hf/tokenizer.json"}
    assert found.example is not None


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("RobertaForTokenClassification", "token-classification"),
        ("DistilBertForSequenceClassification", "text-classification"),
        ("GPT2LMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("MPNetModel", "feature-extraction"),
    ],
)
def test_a_task_is_told_by_the_architecture(tmp_path: Path, architecture: str, task: str) -> None:
    assert described(tmp_path, {"architectures": [architecture]}).section["task"] == task


def test_a_task_that_cannot_be_told(tmp_path: Path) -> None:
    assert "BertForQuestionAnswering is not one" in refusal(tmp_path, {"architectures": ["BertForQuestionAnswering"]})
    assert "--task must be one of text-classification" in refusal(tmp_path, {})
    masked = {"architectures": ["BertForMaskedLM"]}
    assert "--task feature-extraction" in refusal(tmp_path, masked)
    assert described(tmp_path, masked, "feature-extraction").section["pooling"] == "mean"
    assert "a model.py that holds it" in refusal(tmp_path, {"architectures": ["WhisperForConditionalGeneration"]})
    assert "encoder and decoder" in refusal(tmp_path, {"architectures": ["T5Model"], "is_encoder_decoder": True})


@pytest.mark.parametrize(
    ("config", "tokenizer", "longest"),
    [
        (BERT, {}, 512),
        (BERT, {"model_max_length": 128}, 128),
        (BERT, {"model_max_length": 10**30}, 512),
        ({**BERT, "model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, {}, 512),
        ({"architectures": ["XForSequenceClassification"]}, {}, 512),
        ({"architectures": ["XForSequenceClassification"], "max_position_embeddings": 131072}, {}, 4096),
        ({"architectures": ["GPT2LMHeadModel"], "n_positions": 1024}, {}, 960),
    ],
)
def test_how_long_a_text_may_be(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any], longest: int
) -> None:
    found = described(tmp_path, config, tokenizer_config=tokenizer).section
    assert found["max_length"] == longest


def test_a_users_length_beats_the_folders_within_what_the_model_has(tmp_path: Path) -> None:
    place = folder(tmp_path, BERT)
    assert describe(place, None, {"max_length": "100"}).section["max_length"] == 100
    with pytest.raises(UsageError, match="at most 512"):
        describe(place, None, {"max_length": "513"})
    generator = folder(tmp_path, {"architectures": ["GPT2LMHeadModel"], "n_positions": 64})
    with pytest.raises(ArchiveError, match="no room"):
        describe(generator, None, {})
    assert describe(generator, None, {"max_new_tokens": "8"}).section["max_length"] == 56


def test_a_generator_is_padded_on_the_left(tmp_path: Path) -> None:
    found = described(tmp_path, {"architectures": ["GPT2LMHeadModel"], "eos_token_id": 9}, generation_config={})
    assert found.section["inputs"]["input_ids"] == {"dtype": "int64", "shape": ["L"], "pad": 9, "pad_side": "left"}
    assert set(found.section["inputs"]) == {"input_ids", "attention_mask"}
    assert found.section["output"] == "text"
    assert "hf/generation_config.json" in found.files


def test_scores_that_are_no_classes_are_answered_raw(tmp_path: Path) -> None:
    several = described(tmp_path, {**BERT, "problem_type": "multi_label_classification"})
    ranker = described(tmp_path, {**BERT, "id2label": {"0": "LABEL_0"}})
    assert several.section["output"] == ranker.section["output"] == "raw"
    assert several.notes
    assert ranker.notes


def test_tokens_have_labels_each(tmp_path: Path) -> None:
    found = described(tmp_path, {**BERT, "architectures": ["BertForTokenClassification"]})
    assert (found.section["outputs"], found.section["output"]) == (["L", None], "labels")


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]


def embedder(path: Path, kinds: list[dict[str, str]], pooling: dict[str, Any], **files: Any) -> Path:
    made = folder(path, {**BERT, "architectures": ["BertModel"]}, modules=kinds, **files)
    (made / "1_Pooling").mkdir(exist_ok=True)
    (made / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return made


def test_embedders_pool_as_they_were_trained(tmp_path: Path) -> None:
    three = modules("Transformer", "Pooling", "Normalize")
    said = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    found = describe(embedder(tmp_path, three, said, sentence_bert_config={"max_seq_length": 128}), None, {}).section
    assert (found["pooling"], found["normalize"], found["max_length"], found["output"]) == ("mean", True, 128, "raw")
    found = describe(embedder(tmp_path, three[:2], {"pooling_mode": "cls"}), None, {}).section
    assert (found["pooling"], found["normalize"]) == ("cls", False)
    with pytest.raises(ArchiveError, match="pooling_mode_max_tokens"):
        describe(embedder(tmp_path, three, {"pooling_mode_max_tokens": True}), None, {})
    with pytest.raises(ArchiveError, match="module Dense"):
        describe(embedder(tmp_path, modules("Transformer", "Pooling", "Dense"), said), None, {})


def test_pictures(tmp_path: Path) -> None:
    found = described(tmp_path, VIT, preprocessor_config=PICTURES)
    assert found.section["input_shape"] == [3, 224, 224]
    assert (found.section["image_resize"], found.section["image_crop"]) == (256, 224)
    assert (found.section["image_interpolation"], found.section["image_std"]) == ("bicubic", [0.25] * 3)
    assert found.labels == ["cat", "dog"]
    assert "hf/tokenizer.json" not in found.files
    convnext = {**PICTURES, "size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_center_crop": False}
    assert described(tmp_path, VIT, preprocessor_config=convnext).section["image_resize"] == 256


def test_pictures_that_are_squashed(tmp_path: Path) -> None:
    squashed = {**PICTURES, "do_center_crop": False, "size": {"height": 224, "width": 224}}
    assert described(tmp_path, VIT, preprocessor_config=squashed).section["image_fit"] == "squash"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"resample": 1}, "resample"),
        ({"do_resize": False}, "do_resize"),
        ({"do_center_crop": False, "size": {"height": 224, "width": 192}}, "squares"),
        ({"image_mean": None}, "image_mean"),
        ({"size": {"shortest_edge": 200}}, "more than"),
    ],
)
def test_pictures_prepared_in_other_ways(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    assert words in refusal(tmp_path, VIT, preprocessor_config=PICTURES | changed)


def test_folders_that_lack_something(tmp_path: Path) -> None:
    place = folder(tmp_path, BERT)
    (place / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused(place)
    (place / "model.safetensors").unlink()
    assert "no weights" in refused(place)
    (place / "pytorch_model.bin").touch()
    assert "only pytorch_model.bin, which may run code" in refused(place)
    (place / "config.json").write_text("[1]")
    assert "must hold a JSON object" in refused(place)
    (place / "config.json").write_text("{")
    assert "malformed JSON" in refused(place)
    (place / "config.json").unlink()
    assert "no Hugging Face model" in refused(place)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adapter_config.json", "holds an adapter, not a model: .*merge_and_unload"),
        ("model_index.json", "holds a pipeline of diffusers, which is not served"),
    ],
)
def test_folders_of_something_else(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ArchiveError, match=words):
        describe(tmp_path, None, {})


def test_weights_of_llama_cpp(tmp_path: Path) -> None:
    place = folder(tmp_path, {"architectures": ["LlamaForCausalLM"]})
    (place / "model.safetensors").rename(place / "llama.Q4_K_M.gguf")
    assert "only llama.Q4_K_M.gguf, which llama.cpp and vLLM serve" in refused(place)


def test_vectors_of_other_things_than_texts(tmp_path: Path) -> None:
    clip = {"architectures": ["CLIPModel"], "vision_config": {}}
    assert "a model of texts and pictures together" in refusal(tmp_path, clip)
    assert "texts and sounds" in refusal(tmp_path, {"architectures": ["ClapModel"], "audio_config": {}})
    vit = {"architectures": ["ViTModel"]}
    described(tmp_path, vit, preprocessor_config=PICTURES)  # it has a tokenizer, so it takes text
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ArchiveError, match=r"a model of pictures or sounds .* a model\.py that holds it"):
        describe(tmp_path, None, {})


def refused(place: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        describe(place, None, {})
    return str(caught.value)


def test_weights_in_several_files(tmp_path: Path) -> None:
    place = folder(tmp_path, BERT)
    (place / "model.safetensors").unlink()
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (place / "model-1.safetensors").touch()
    assert "model-2.safetensors is missing" in refused(place)
    (place / "model-2.safetensors").touch()
    names = {"hf/model.safetensors.index.json", "hf/model-1.safetensors", "hf/model-2.safetensors"}
    assert names <= set(describe(place, None, {}).files)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    assert "which lie beside it" in refused(place)


# From what was typed to a folder


def test_a_folder_is_itself_and_what_is_no_name_is_refused(tmp_path: Path) -> None:
    assert find(str(tmp_path), print) == tmp_path
    for given in ("./nowhere", "/nowhere/at/all", "a/b/c", "../nowhere", ""):
        with pytest.raises(UsageError, match="--hf must be a folder"):
            find(given, print)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=fail))
    with pytest.raises(ArchiveError, match=r"some/model: .*hub \(no route\)\. Without network, copy"):
        find("some/model", lambda _: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ArchiveError, match=r"smartbatch\[hf\]"):
        find("some/model", lambda _: None)


def test_a_hub_that_can_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    said: list[str] = []
    assert find("some/model", said.append) == tmp_path
    assert asked[0][0] == "some/model"
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in asked[0][1])
    assert said == ["fetching some/model from the Hugging Face hub"]


# Settings


def test_settings_that_exclude_each_other(tmp_path: Path) -> None:
    for keys in ({"model": "resnet18"}, {"model_path": tmp_path}, {"random_weights": True}, {"num_classes": 3}):
        with pytest.raises(UsageError, match="exclude each other"):
            ArchiveSettings(hf=str(tmp_path), **keys)
    with pytest.raises(UsageError, match="--hf"):
        ArchiveSettings(task="text-classification")
    with pytest.raises(UsageError, match="must be one of"):
        ArchiveSettings(hf=str(tmp_path), task="summarization")
    assert ArchiveSettings(hf="some/model").archive_name == "model"
