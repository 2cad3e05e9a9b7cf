"""Text through one real server: the example as its README has it, and Hugging Face folders, their files unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from tests import small_transformers
from tests.e2e.models import examples
from tests.e2e.models.examples import EXAMPLES
from tests.e2e.models.model_server import ModelServer, results, share_batches
from tests.small_transformers import lengths, sentence, solo

TEXT = EXAMPLES / "text"
RAW = {"X-SmartBatch-Output": "raw"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    """By name, what is served from the folder of that name."""
    return {
        "bert": small_transformers.bert(folder / "bert", "ForSequenceClassification", num_labels=3),
        "vectors": small_transformers.bert(folder / "vectors", "Model"),
        "gpt2": small_transformers.gpt2(folder / "gpt2"),
    }


@pytest.fixture(scope="module")
def server(models: ModelServer, folder: Path, plain: dict[str, Any]) -> Iterator[ModelServer]:
    keys = {"bert": {}, "vectors": {"micro_batch": "32"}, "gpt2": {"micro_batch": "16", "max_new_tokens": "8"}}
    for name, overrides in keys.items():  # one of them is measured, as all are where nobody says how many
        models.archive(name, hf=str(folder / name), overrides=overrides)
    with models.serving(*plain):
        yield models


def ids_of(folder: Path, text: str) -> list[int]:
    ids: list[int] = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return ids


@pytest.mark.slow  # half a minute; sentences of all lengths are below, and the digits' example is in CI
def test_the_examples_accuracy_over_http_is_the_offline_accuracy(models: ModelServer, folder: Path) -> None:
    # A process of its own: it imports half of what is installed, for its documentation.
    subprocess.run([sys.executable, str(TEXT / "train.py"), "--build", str(folder)], check=True, timeout=240)
    models.archive(
        "text",
        model_file=TEXT / "model.py",
        model_path=folder / "text.pth",
        tokenizer=folder / "tokenizer.json",
        labels=TEXT / "labels.txt",
        inputs=("input_ids:int64:L:0", "attention_mask:int64:L:0"),
        example=TEXT / "example.json",
    )
    with models.serving("text", max_batch_delay_ms=20):
        result = json.loads(examples.run("text/evaluate.py", "--url", models.url, "--build", folder))
    assert result["num_texts"] > 500
    assert result["num_disagreeing"] == 0
    assert result["http_accuracy"] == result["offline_accuracy"] >= 0.75
    assert result["mean_batch_size"] > 1


def test_sentences_of_all_lengths_at_once_are_answered_as_alone(
    server: ModelServer, folder: Path, plain: dict[str, Any]
) -> None:
    texts = [sentence(count, seed) for seed, count in enumerate(lengths(64, 8, 512))]
    replies = server.at_once("bert", [{"json": {"text": text}, "headers": RAW} for text in texts])
    for text, reply in zip(texts, replies, strict=True):
        ids = ids_of(folder / "bert", text)
        assert ("X-SmartBatch-Truncated" in reply.headers) == (len(ids) > 512)
        assert reply.headers["X-SmartBatch-Weights"] == "file bert/model.safetensors"
        if len(ids) <= 512:
            expected = solo(plain["bert"], ids).logits[0].numpy()
            np.testing.assert_allclose(reply.json()["result"], expected, rtol=0, atol=1e-5)


def test_sentence_embeddings(server: ModelServer, folder: Path, plain: dict[str, Any]) -> None:
    texts = [sentence(count, seed) for seed, count in enumerate(lengths(32, 3, 60))]
    replies = server.at_once("vectors", [{"json": {"text": text}} for text in texts])
    assert share_batches(replies)
    for text, vector in zip(texts, results(replies), strict=True):
        hidden = solo(plain["vectors"], ids_of(folder / "vectors", text)).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (hidden / hidden.norm()).numpy(), rtol=0, atol=1e-5)


def test_eight_tokens_each_as_alone(server: ModelServer, folder: Path, plain: dict[str, Any]) -> None:
    model, end = plain["gpt2"], plain["gpt2"].config.eos_token_id
    prompts = [sentence(2 + 3 * (seed % 9), seed) for seed in range(16)]
    replies = server.at_once("gpt2", [{"json": {"text": prompt}, "headers": RAW} for prompt in prompts])
    assert share_batches(replies)
    for prompt, found in zip(prompts, results(replies), strict=True):
        row = ids_of(folder / "gpt2", prompt)
        expected: list[int] = []
        while len(expected) < 8 and (best := int(solo(model, row + expected).logits[0, -1].argmax())) != end:
            expected.append(best)
        assert found == expected


def test_bad_texts_are_refused_in_words(server: ModelServer) -> None:
    as_json = {"Content-Type": "application/json"}
    for request in ({"data": b'{"text": "\\ud800"}', "headers": as_json}, {"json": {"words": "a"}}):
        reply = server.post("bert", **request)
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["message"]
