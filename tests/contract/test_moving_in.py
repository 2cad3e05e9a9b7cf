"""What TorchServe's users bring along: hooks for batches, bare answers, pictures in base64, KServe's instances."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2  # noqa: F401  it sets a variable of the environment when it is first imported
from PIL import Image
from smartbatch_handler import SmartBatchHandler
from smartbatch_worker.contract.description import MAX_EXAMPLE_BYTES, told_example

from tests.contract.in_process import DESCRIBE, Request, Worker, request

MODELS = """
import torch

class Line(torch.nn.Module):
    def forward(self, x):
        if (x < 0).any():
            raise RuntimeError("poison")
        return 2 * x + 1

class Mean(torch.nn.Module):
    def forward(self, image):
        means = image.mean((2, 3))
        return torch.cat([means, -means], 1)

class Sum(torch.nn.Module):
    def forward(self, ids, mask):
        return (ids * mask).sum(1)
"""
IDS = {
    "ids": {"dtype": "int64", "shape": ["L"], "pad": 0},
    "mask": {"dtype": "int64", "shape": ["L"], "pad": 0},
}
PICTURES = {
    "model_class": "Mean",
    "input_shape": [3, None, None],
    "image_resize": 8,
    "image_crop": 8,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
}
Serve = Callable[..., Worker]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    (tmp_path / "model.py").write_text(MODELS)

    def start(handler: type[SmartBatchHandler] = SmartBatchHandler, **section: Any) -> Worker:
        return Worker(tmp_path, {"model": "model.py", "micro_batch": 8, **section}, handler)

    return start


def png(*colour: int, size: tuple[int, int] = (9, 12)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def b64(*colour: int, **size: Any) -> str:
    return base64.b64encode(png(*colour, **size)).decode()


def posted(body: Any) -> Request:
    return request(json.dumps(body).encode())


class TestInference:
    """The hook for a whole batch."""

    def test_it_is_given_whole_batches_and_its_answers_go_back_to_their_rows(self, serve: Serve) -> None:
        sizes: list[int] = []

        class Softmax(SmartBatchHandler):
            def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
                sizes.append(len(data))
                scores = self.model(data.to(self.device))
                scores += 1  # in place, as in inference mode one may
                return [{"best": row.argmax().item(), "scores": row} for row in scores]

        worker = serve(Softmax, model_class="Line", input_shape=[2])
        replies = worker.answer(*(request([float(n), 0.0]) for n in range(5)))
        assert sizes[0] == 5
        assert [reply.json["result"] for reply in replies] == [
            {"best": 0, "scores": [2.0 * n + 2, 2.0]} for n in range(5)
        ]

    def test_it_takes_named_inputs_by_name(self, serve: Serve) -> None:
        class Named(SmartBatchHandler):
            def inference(self, batch: Any) -> Any:
                return self.model(ids=batch["ids"], mask=batch["mask"]) + super().inference(batch)

        bodies = [posted({"inputs": {"ids": list(range(n)), "mask": [1] * n}}) for n in (3, 1, 7)]
        replies = serve(Named, model_class="Sum", inputs=IDS).answer(*bodies)
        assert [reply.json["result"] for reply in replies] == [6, 0, 42]

    def test_where_it_fails_only_the_item_fails_that_it_fails_for(self, serve: Serve) -> None:
        class Picky(SmartBatchHandler):
            def inference(self, batch: Any) -> Any:
                if (batch == 7).any():
                    raise KeyError("seven")
                return super().inference(batch)

        replies = serve(Picky, model_class="Line", input_shape=[1]).answer(*(request([float(n)]) for n in range(-1, 9)))
        statuses = [reply.status for reply in replies]
        assert statuses == [500] + [200] * 7 + [500] + [200]

    def test_another_number_of_answers_than_items_fails_all(self, serve: Serve) -> None:
        class Short(SmartBatchHandler):
            def inference(self, batch: Any) -> Any:
                return super().inference(batch)[:-1]

        replies = serve(Short, model_class="Line", input_shape=[1]).answer(request([1.0]), request([2.0]))
        assert {reply.error for reply in replies} == {(500, "model_failed")}

    def test_the_model_is_called_with_one_batch_or_by_name(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Wrong(SmartBatchHandler):
            def inference(self, batch: Any) -> Any:
                return self.model(batch, batch)

        with caplog.at_level(logging.WARNING):
            (reply,) = serve(Wrong, model_class="Line", input_shape=[1]).answer(request([1.0]))
        assert reply.status == 500
        assert "the model is called with one batch, or with all of its inputs by name" in reply.body.decode()


def test_bare_answers_and_errors_that_stay_what_they_are(serve: Serve) -> None:
    worker = serve(model_class="Line", input_shape=[2], envelope="bare")
    one, two, bad = worker.answer(request([1.0, 2.0]), request([[1.0, 2.0], [3.0, 4.0]]), request([1.0]))
    assert one.json == [3.0, 5.0]
    assert two.json == [[3.0, 5.0], [7.0, 9.0]]
    assert bad.error == (422, "wrong_shape")


def test_an_envelope_is_result_or_bare(serve: Serve) -> None:
    with pytest.raises(ValueError, match="envelope must be one of result, bare; got 'none'"):
        serve(model_class="Line", envelope="none")


class TestPictures:
    """In base64, within JSON."""

    @pytest.mark.parametrize(
        "body",
        [
            {"data": b64(255, 0, 51)},
            {"body": b64(255, 0, 51)},
            {"data": "data:image/png;base64," + b64(255, 0, 51)},
        ],
    )
    def test_one_is_answered_as_its_file_is(self, serve: Serve, body: Any) -> None:
        worker = serve(**PICTURES)
        inside, alone = worker.answer(posted(body), request(png(255, 0, 51), "image/png"))
        assert inside.json == alone.json
        assert inside.json["result"][0]["index"] == 0

    @pytest.mark.parametrize("key", ["b64", "data", "body", "image_bytes", None])
    def test_instances_are_answered_as_predictions(self, serve: Serve, key: str | None) -> None:
        texts = [b64(255, 0, 0), b64(0, 255, 0, size=(30, 8)), b64(0, 0, 255)]
        entries = [text if key is None else {key: {"b64": text} if key == "image_bytes" else text} for text in texts]
        single, several = serve(**PICTURES).answer(request(png(1, 2, 3), "image/png"), posted({"instances": entries}))
        assert single.status == several.status == 200
        assert [answer[0]["index"] for answer in several.json["predictions"]] == [0, 1, 2]

    @pytest.mark.parametrize(
        ("body", "status", "said"),
        [
            ({"data": "not base64!"}, 400, "got text that is not base64"),
            ({"data": base64.b64encode(b"abc").decode()}, 415, "holds no JPEG, PNG or WebP"),
            ({"instances": [{"b64": b64(1, 2, 3)}, {"b64": "?"}]}, 400, '"instances"[1]: got text that is not base64'),
            ({"instances": []}, 400, '"instances" must be a list'),
            ({"instances": {"b64": ""}}, 400, '"instances" must be a list'),
            ({"instances": [{"picture": "x"}]}, 400, '"instances"[0] must be lists of numbers, or {"b64"'),
            ({"instances": [{"b64": b64(1, 2, 3)}] * 5}, 413, "the request has 5 items; at most 4 are accepted"),
            ({"data": base64.b64encode(png(1, 2, 3)[:40]).decode()}, 400, "PNG"),
        ],
    )
    def test_what_is_wrong_is_said(self, serve: Serve, body: Any, status: int, said: str) -> None:
        good, bad = serve(**PICTURES, max_items=4).answer(request(png(1, 2, 3), "image/png"), posted(body))
        assert (good.status, bad.status) == (200, status)
        assert said in bad.json["error"]["message"]

    def test_two_keys_of_one_name(self, serve: Serve) -> None:
        text = b64(1, 2, 3)
        (reply,) = serve(**PICTURES).answer(request(f'{{"data": "{text}", "data": "{text}"}}'.encode()))
        assert reply.error == (400, "malformed")

    def test_lists_beat_what_else_the_body_holds(self, serve: Serve) -> None:
        planes = np.full((3, 8, 8), 0.5).tolist()
        worker = serve(**PICTURES, output="raw")
        replies = worker.answer(posted({"data": planes, "body": "note"}), posted({"data": planes, "instances": 1}))
        assert [reply.status for reply in replies] == [200, 200]

    def test_a_model_of_no_pictures(self, serve: Serve) -> None:
        worker = serve(model_class="Line", input_shape=[2])
        text, instances = worker.answer(posted({"data": "abc"}), posted({"instances": [{"b64": b64(1, 2, 3)}]}))
        assert "must be a nested list of numbers; got text" in text.json["error"]["message"]
        assert instances.status == 415


class TestInstances:
    """KServe's protocol v1."""

    def test_lists_of_numbers(self, serve: Serve) -> None:
        worker = serve(model_class="Line", input_shape=[2], envelope="bare")
        plain, named, one = worker.answer(
            posted({"instances": [[1, 2], [3, 4]]}),
            posted({"instances": [{"data": [1, 2]}, {"data": [3, 4]}]}),
            posted({"signature_name": "serving_default", "instances": [[1, 2]]}),
        )
        assert plain.json == named.json == {"predictions": [[3.0, 5.0], [7.0, 9.0]]}
        assert one.json == {"predictions": [[3.0, 5.0]]}

    def test_named_inputs_of_several_lengths(self, serve: Serve) -> None:
        entries = [{"ids": [1, 2], "mask": [1, 1]}, {"ids": [5], "mask": [1]}]
        worker = serve(model_class="Sum", inputs=IDS)
        good, bad = worker.answer(posted({"instances": entries}), posted({"instances": [{"ids": [1]}]}))
        assert good.json == {"predictions": [3, 5]}
        assert bad.error == (422, "wrong_inputs")

    def test_one_named_picture(self, serve: Serve) -> None:
        image = {"image": {"dtype": "float32", "shape": [3, 8, 8], "image": True}}
        worker = serve(**{**PICTURES, "input_shape": None, "inputs": image, "output": "raw"})
        text = b64(255, 0, 51)
        bodies = [{"instances": [{"b64": text}]}, {"instances": [{"image": {"b64": text}}]}, {"data": text}]
        replies = worker.answer(*(posted(body) for body in bodies))
        assert [reply.status for reply in replies] == [200] * 3
        assert replies[0].json["predictions"][0] == replies[2].json["result"]
        np.testing.assert_allclose(replies[1].json["predictions"][0][:3], [1, 0, 0.2], atol=1e-6)

    def test_instances_of_other_shapes_are_refused(self, serve: Serve) -> None:
        worker = serve(model_class="Line", input_shape=[2])
        long, deep = worker.answer(posted({"instances": [[1, 2, 3]]}), posted({"instances": [[[1, 2]], [[3, 4]]]}))
        assert {long.error, deep.error} == {(422, "wrong_shape")}

    @pytest.mark.parametrize("entry", ['{"data": [1, [2]]}', '{"data": [1], "data": [1, 2]}', '{"data": [1, "2"]}'])
    def test_what_is_no_list_of_numbers(self, serve: Serve, entry: str) -> None:
        worker = serve(model_class="Line", input_shape=[2])
        body = f'{{"instances": [{{"data": [1, 2]}}, {entry}]}}'.encode()
        (reply,) = worker.answer(request(body))
        assert reply.error == (400, "malformed")
        assert '"instances"[1]' in reply.json["error"]["message"]

    def test_numbers_are_bounded_over_all_instances(self, serve: Serve) -> None:
        worker = serve(model_class="Line", input_shape=[4], max_elements=10)
        entries = [{"data": [1, 2, 3, 4]}] * 3
        assert worker.answer(posted({"instances": entries}))[0].error == (413, "too_large")


def test_an_example_is_told_where_it_is_small(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "example.json").write_bytes(b'{"data": [1, 2]}')
    (tmp_path / "example.npy").write_bytes(bytes(MAX_EXAMPLE_BYTES + 1))
    keys = {"model_class": "Line", "input_shape": [2]}
    (small,) = serve(**keys, example="example.json").answer(DESCRIBE)
    (large,) = serve(**keys, example="example.npy").answer(DESCRIBE)
    (none,) = serve(**keys).answer(DESCRIBE)
    assert told_example(small.json) == (b'{"data": [1, 2]}', "application/json")
    assert told_example(large.json) is None
    assert large.json["example"]["num_bytes"] == MAX_EXAMPLE_BYTES + 1
    assert none.json["example"] is told_example(none.json) is None


def test_tensors_are_what_they_were(serve: Serve) -> None:
    """The fast path of the usual body is not asked for dialects."""
    worker = serve(model_class="Line", input_shape=[3])
    (reply,) = worker.answer(request(torch.arange(3.0).tolist()))
    assert reply.json == {"result": [1.0, 3.0, 5.0]}
