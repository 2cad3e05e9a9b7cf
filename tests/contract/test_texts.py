"""Text through the whole handler: Hugging Face folders as `archive --hf` stages them, and a model.py of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from smartbatch.archive.context import Request
from smartbatch.archive.settings import ArchiveSettings
from smartbatch.archive.stage import stage

from tests import small_transformers
from tests.contract.in_process import Reply, Worker, request
from tests.small_transformers import lengths, sentence, solo

LABELS = {0: "calm", 1: "keen", 2: "cross"}
RAW = {"X_SmartBatch_Output": "raw"}


def text(body: Any, **headers: str) -> Request:
    return request(json.dumps(body).encode(), **headers)


def served(model: Path, folder: Path, batch_size: int = 64, **overrides: str) -> Worker:
    """A worker on what `smartbatch archive --hf` makes of a model's folder."""
    folder.mkdir()
    staged = stage(ArchiveSettings(hf=str(model), overrides=overrides), folder, lambda _: None)
    assert staged.origins["hf"] == model, "messages name the user's folder"
    return Worker(folder, staged.section, batch_size=batch_size)


def ids_of(model: Path, text: str) -> list[int]:
    ids: list[int] = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    return ids


def results(replies: Any) -> list[Any]:
    assert {reply.status for reply in replies} == {200}, replies[0].body
    return [reply.json["result"] for reply in replies]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Worker]:
    """Its folder, itself in plain PyTorch, and its worker."""
    folder = tmp_path_factory.mktemp("classifier")
    plain = small_transformers.bert(
        folder / "bert",
        "ForSequenceClassification",
        id2label=LABELS,
        label2id={name: index for index, name in LABELS.items()},
    )
    return folder / "bert", plain, served(folder / "bert", folder / "staged")


def test_sentences_of_all_lengths_are_answered_as_alone(classifier: tuple[Path, Any, Worker]) -> None:
    folder, plain, worker = classifier
    texts = [sentence(count, seed) for seed, count in enumerate(lengths(64, 8, 512))]
    found = results(worker.answer(*(text({"text": each}, **RAW) for each in texts)))
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.enable_truncation(512)
    for each, logits in zip(texts, found, strict=True):
        expected = solo(plain, made.encode(each).ids).logits[0]
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-5)


def test_text_is_answered_by_class_and_lists_by_lists(classifier: tuple[Path, Any, Worker]) -> None:
    folder, plain, worker = classifier
    first, second = results(worker.answer(text({"text": "send a message"}), text({"text": ["a", "random", "list"]})))
    scores = solo(plain, ids_of(folder, "send a message")).logits[0].softmax(0)
    best = int(scores.argmax())
    assert first[0]["label"] == LABELS[best]
    assert first[0]["index"] == best
    assert first[0]["score"] == pytest.approx(float(scores[best]), abs=1e-5)
    assert [len(answer) for answer in second] == [3, 3, 3]
    plain_text, as_json = results(
        worker.answer(request(b"send a message", "text/plain"), text({"text": "send a message"}))
    )
    assert plain_text == as_json
    assert [answer["label"] for answer in plain_text] == [answer["label"] for answer in first]


def test_a_pair_is_one_item(classifier: tuple[Path, Any, Worker]) -> None:
    folder, plain, worker = classifier
    (found,) = results(worker.answer(text({"text": "what is it", "text_pair": "a message"}, **RAW)))
    encoding = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode("what is it", "a message")
    with torch.inference_mode():
        expected = plain(
            input_ids=torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids])
        ).logits[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
    assert 1 in encoding.type_ids


def test_what_was_cut_is_said(classifier: tuple[Path, Any, Worker]) -> None:
    _, _, worker = classifier
    long = "message " * 2000
    one, list_of_three, none = worker.answer(
        text({"text": long}), text({"text": ["a", long, long]}), text({"text": "short"})
    )
    assert one.headers["X-SmartBatch-Truncated"] == "1"
    assert list_of_three.headers["X-SmartBatch-Truncated"] == "2"
    assert "X-SmartBatch-Truncated" not in none.headers


HOSTILE: dict[str, tuple[Request, int]] = {
    "an empty text": (text({"text": ""}), 200),
    "ten megabytes": (text({"text": "message " * 1_250_000}), 200),
    "ten megabytes of one word": (text({"text": "m" * 10_000_000}), 200),
    "control characters": (text({"text": "\x00\x01\x7f\u202e"}), 200),
    "half a surrogate pair": (request(b'{"text": "\\ud800"}'), 400),
    "bytes that are no UTF-8": (request(b"\xff\xfe", "text/plain"), 400),
    "nothing": (request(b"", "text/plain"), 400),
    "numbers for text": (text({"text": [1, 2]}), 400),
    "more texts than accepted": (text({"text": ["a"] * 257}), 413),
    "text of a type that is not said": (request(b"a message", ""), 415),
    "another charset": (request(b"a", "text/plain; charset=utf-16"), 415),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_harms_nobody_else(classifier: tuple[Path, Any, Worker], name: str) -> None:
    _, _, worker = classifier
    hostile, status = HOSTILE[name]
    before, bad, after = worker.answer(text({"text": "a message"}), hostile, text({"text": "a message"}))
    assert bad.status == status, bad.body
    assert before.status == after.status == 200
    assert before.body == after.body


def test_tokens_made_elsewhere_are_taken_too(classifier: tuple[Path, Any, Worker]) -> None:
    folder, _, worker = classifier
    ids = ids_of(folder, "send a message")
    zeros, ones = [0] * len(ids), [1] * len(ids)
    inputs = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
    by_ids, by_text = results(worker.answer(text({"inputs": inputs}), text({"text": "send a message"}, **RAW)))
    np.testing.assert_allclose(by_ids, by_text, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ids", [[2, 400_000, 3], [2, -1, 3], [2] * 600])
def test_numbers_that_are_no_text_of_the_model_fail_alone(classifier: tuple[Path, Any, Worker], ids: list[int]) -> None:
    _, _, worker = classifier
    inputs = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [0] * len(ids)}
    good, bad = worker.answer(text({"text": "a message"}), text({"inputs": inputs}))
    assert good.status == 200
    assert bad.error == (422, "model_rejected")


def test_sentence_embeddings(tmp_path: Path) -> None:
    plain = small_transformers.bert(tmp_path / "bert", "Model")
    worker = served(tmp_path / "bert", tmp_path / "staged")
    texts = [sentence(count, seed) for seed, count in enumerate(lengths(16, 3, 60))]
    found = results(worker.answer(*(text({"text": each}) for each in texts)))
    for each, vector in zip(texts, found, strict=True):
        hidden = solo(plain, ids_of(tmp_path / "bert", each)).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (hidden / hidden.norm()).numpy(), rtol=0, atol=1e-5)


def test_every_token_has_its_label(tmp_path: Path) -> None:
    plain = small_transformers.bert(
        tmp_path / "bert", "ForTokenClassification", id2label=LABELS, label2id={v: k for k, v in LABELS.items()}
    )
    worker = served(tmp_path / "bert", tmp_path / "staged")
    texts = [sentence(count, seed) for seed, count in enumerate([3, 9, 20])]
    raw = results(worker.answer(*(text({"text": each}, **RAW) for each in texts)))
    labels = results(worker.answer(*(text({"text": each}) for each in texts)))
    for each, logits, named in zip(texts, raw, labels, strict=True):
        expected = solo(plain, ids_of(tmp_path / "bert", each)).logits[0]  # [L, K]: padding is cut off
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-5)
        assert [token["label"] for token in named] == [LABELS[int(index)] for index in expected.argmax(-1)]


def test_text_goes_on_together_as_it_does_alone(tmp_path: Path) -> None:
    plain: Any = small_transformers.gpt2(tmp_path / "gpt2")
    worker = served(tmp_path / "gpt2", tmp_path / "staged", max_new_tokens="8")
    prompts = [sentence(count, seed) for seed, count in enumerate([2, 5, 9, 17, 30, 3, 3, 12])]
    together = worker.answer(*(text({"text": each}, **RAW) for each in prompts))
    for prompt, found in zip(prompts, results(together), strict=True):
        ids = ids_of(tmp_path / "gpt2", prompt)
        row = list(ids)
        for _ in range(8):
            row.append(int(solo(plain, row).logits[0, -1].argmax()))
            if row[-1] == plain.config.eos_token_id:
                row.pop()
                break
        assert found == row[len(ids) :]
    (alone,) = results(worker.answer(text({"text": prompts[0]})))
    assert isinstance(alone, str)
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "gpt2" / "tokenizer.json"))
    assert alone == made.decode(together[0].json["result"])


def test_a_classifier_of_pictures(tmp_path: Path) -> None:
    plain: Any = small_transformers.vit(tmp_path / "vit")
    worker = served(tmp_path / "vit", tmp_path / "staged")
    pictures = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)
    found = results(worker.answer(*(request(each.tolist()) for each in pictures)))
    with torch.inference_mode():
        expected = plain(pixel_values=torch.from_numpy(pictures)).logits
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)


# A model of one's own

OWN = """
import torch


class Bag(torch.nn.Module):
    '''The sum of a text's token numbers, and how many there are.'''

    def forward(self, tokens, **others):
        return torch.stack([tokens.sum(1).float(), (tokens > 0).sum(1).float()], 1)
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Worker]:
    (tmp_path / "model.py").write_text(OWN)
    small_transformers.word_pieces(tmp_path)

    def start(**keys: Any) -> Worker:
        section = {"model": "model.py", "tokenizer": "tokenizer.json", "input_shape": None, "max_length": 32}
        return Worker(tmp_path, section | keys)

    return start


def test_a_model_of_ones_own_has_text_under_its_own_name(own: Callable[..., Worker], tmp_path: Path) -> None:
    inputs = {"tokens": {"dtype": "int64", "shape": ["L"], "pad": 0}}
    replies = own(inputs=inputs).answer(*(text({"text": each}, **RAW) for each in ("a message", "a")))
    for each, found in zip(("a message", "a"), results(replies), strict=True):
        ids = ids_of(tmp_path, each)
        assert found == [sum(ids), len(ids)]


def test_a_model_of_one_unnamed_input_has_the_token_numbers(own: Callable[..., Worker], tmp_path: Path) -> None:
    (found,) = results(own(input_shape=[None]).answer(text({"text": "a message"}, **RAW)))
    ids = ids_of(tmp_path, "a message")
    assert found == [sum(ids), len(ids)]


def test_an_input_that_no_tokenizer_makes_stops_the_worker(own: Callable[..., Worker]) -> None:
    shape = {"dtype": "int64", "shape": ["L"], "pad": 0}
    with pytest.raises(ValueError, match="inputs has pixel_values, which no tokenizer makes"):
        own(inputs={"input_ids": shape, "pixel_values": shape})


def test_text_as_an_answer_needs_tokens_and_a_tokenizer(own: Callable[..., Worker]) -> None:
    answers = own(input_shape=[None]).answer(text({"text": "a message"}, X_SmartBatch_Output="text"))
    assert answers[0].error == (400, "malformed")
    without = own(input_shape=[None], tokenizer=None).answer(request([1.0], X_SmartBatch_Output="text"))
    assert "a tokenizer in the archive" in _message(without[0])


def _message(reply: Reply) -> str:
    return str(reply.json["error"]["message"])
