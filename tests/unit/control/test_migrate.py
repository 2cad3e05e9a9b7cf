"""What `smartbatch migrate` says of handlers: TorchServe's own, and such as users have. None of them is run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from smartbatch.cli import app
from smartbatch.errors import UsageError
from smartbatch.migrate.advice import Advice, advise
from smartbatch.migrate.bases import BASES
from smartbatch.migrate.source import find_handler, read_handler
from typer.testing import CliRunner

READY = {
    "base_handler": ["--input-shape=*"],
    "vision_handler": ["--input-shape=3,*,*"],
    "image_classifier": ["--input-shape=3,*,*", "--labels=index_to_name.json"],
    "image_segmenter": ["--model=fcn_resnet101"],
    "object_detector": ["--model=fasterrcnn_resnet50_fpn"],
    "dali_image_classifier": ["--input-shape=3,*,*"],
    "dali_handler": ["--model-file=model.py"],
}
"""Of TorchServe's own: what the command has in it."""
BY_HAND = {
    "text_handler": "preprocess_item",
    "text_classifier": "source_vocab.pt",
    "densenet_handler": "unpickles",
    "vllm_handler": "vLLM",
    "trt_llm_handler": "vLLM",
}


def parsed(command: str) -> list[str]:
    """The options of an advised command, which `smartbatch archive` must take."""
    words = shlex.split(command)
    assert words[:2] == ["smartbatch", "archive"]
    group: Any = typer.main.get_command(app)
    archive = group.get_command(None, "archive")
    archive.make_context("archive", words[2:])
    return [f"{option}={value}" for option, value in zip(words[2::2], words[3::2], strict=True)]


def advice_on(tmp_path: Path, text: str) -> Advice:
    file = tmp_path / "my_handler.py"
    file.write_text(text)
    return advise(read_handler(file))


def said(advice: Advice, part: str) -> tuple[str, bool]:
    (finding,) = [finding for finding in advice.findings if finding.part == part]
    return finding.becomes, finding.by_hand


@pytest.mark.parametrize("name", READY)
def test_torchserves_own_that_need_no_hand(name: str) -> None:
    advice = advise(read_handler(find_handler(name)))
    assert advice.num_by_hand == 0
    assert set(READY[name]) <= set(parsed(advice.command))


@pytest.mark.parametrize("name", BY_HAND)
def test_torchserves_own_that_do(name: str) -> None:
    advice = advise(read_handler(find_handler(name)))
    assert advice.num_by_hand == 1
    assert BY_HAND[name] in advice.findings[0].becomes
    if advice.command:
        parsed(advice.command)


def test_every_handler_that_torchserve_has_is_known() -> None:
    folder = find_handler("base_handler").parent
    files = [*folder.glob("*handler.py"), *folder.glob("*class*.py"), *folder.glob("distributed/*.py")]
    names = {read_handler(file).name for file in files if file.name != "__init__.py"}
    assert names <= set(BASES)
    assert len(names) > 10


CLASSIFIER = """
import torch
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier

raise SystemExit("it was run")

class Birds(ImageClassifier):
    topk = 3
    image_processing = transforms.Compose([
        transforms.Resize(232), transforms.CenterCrop((224, 224)), transforms.ToTensor(),
        transforms.Normalize([0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]),
    ])

    def initialize(self, context):
        super().initialize(context)
        self.initialized = True
"""


def test_a_classifier_is_a_command(tmp_path: Path) -> None:
    advice = advice_on(tmp_path, CLASSIFIER)
    assert advice.num_by_hand == 0
    options = parsed(advice.command)
    wanted = ["topk=3", "image_resize=232", "image_mean=0.5,0.5,0.5", "image_std=0.25,0.25,0.25", "envelope=bare"]
    assert set(wanted) == {option.removeprefix("--set=") for option in options if option.startswith("--set=")}
    assert not any(option.startswith("--handler") for option in options)
    assert said(advice, "initialize") == ("goes: the worker loads the model", False)
    assert [finding.line for finding in advice.findings] == [8, 9, 10, 15]


def test_the_interpolation_is_a_setting(tmp_path: Path) -> None:
    steps = "T.Resize(248, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor()"
    advice = advice_on(tmp_path, f"class A(VisionHandler):\n    image_processing = T.Compose([{steps}])\n")
    assert advice.num_by_hand == 0
    assert "--set=image_interpolation=bicubic" in parsed(advice.command)


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ("transforms.Resize(256), transforms.Grayscale(), transforms.ToTensor()", "Grayscale"),
        ("transforms.Resize(SIDE), transforms.ToTensor()", "Resize(SIDE)"),
        ("transforms.Resize(64, interpolation=LANCZOS), transforms.ToTensor()", "Resize(64"),
        ("transforms.Resize((32, 64)), transforms.ToTensor()", "Resize((32, 64))"),
        ("transforms.ToTensor()", "pictures stay as large as they come"),
    ],
)
def test_transforms_that_no_setting_does_need_a_hand(tmp_path: Path, steps: str, named: str) -> None:
    text = f"class A(VisionHandler):\n    image_processing = transforms.Compose([{steps}])\n"
    becomes, by_hand = said(advice_on(tmp_path, text), "transforms")
    assert by_hand
    assert named in becomes


TEXT = """
from abc import ABC
from transformers import AutoTokenizer, AutoModelForSequenceClassification
from ts.torch_handler.base_handler import BaseHandler

class Reviews(BaseHandler, ABC):
    def __init__(self):
        super().__init__()
        self.initialized = False

    def initialize(self, ctx):
        self.manifest = ctx.manifest
        model_dir = ctx.system_properties.get("model_dir")
        self.model = AutoModelForSequenceClassification.from_pretrained(model_dir)
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)

    def preprocess(self, requests):
        texts = []
        for row in requests:
            texts.append(row.get("data") or row.get("body"))
        return self.tokenizer(texts, padding=True, return_tensors="pt")

    def inference(self, inputs, *args, **kwargs):
        return self.model(**inputs)

    def postprocess(self, outputs):
        return [{"label": self.mapping[str(row.argmax().item())]} for row in outputs.logits]

    def clean(self, text):
        return text.strip()

    def explain_handle(self, data, raw):
        return []
"""


def test_a_text_handler_part_by_part(tmp_path: Path) -> None:
    advice = advice_on(tmp_path, TEXT)
    parts = {finding.part: finding for finding in advice.findings}
    by_hand = {part for part, finding in parts.items() if finding.by_hand}
    assert by_hand == {"initialize", "preprocess", "postprocess", "self.mapping"}
    assert "line 14" in parts["initialize"].becomes
    assert "the loop at line 19" in parts["preprocess"].becomes
    assert "--input input_ids:int64:L:0" in parts["preprocess"].becomes
    assert parts["inference"].becomes.startswith("stays: it is called for whole micro-batches")
    assert parts["postprocess"].becomes.startswith("becomes postprocess_item(self, output)")
    assert parts["self.mapping"].line == 27
    assert parts["clean"].becomes == "stays if what calls it stays"
    assert parts["explain_handle"].becomes == "goes: explanations are not served"
    wanted = {"--handler=my_handler.py", "--input=input_ids:int64:L:0", "--input=attention_mask:int64:L:0"}
    assert wanted <= set(parsed(advice.command))


@pytest.mark.parametrize(
    ("method", "begins", "by_hand"),
    [
        ("inference(self, x):\n        return super().inference(x).softmax(1)", "stays: it is called", False),
        (
            "inference(self, x):\n        return self.model.generate(x)",
            "stays, but for self.model.generate at line 3",
            True,
        ),
        ("inference(self, x):\n        return self.model(x[0], x[1])", "stays, but for the call of self.model", True),
        ("inference(self, x):\n        return x * 2", "calls no self.model", True),
        ("initialize(self, c):\n        self.model = torch.jit.load('model.pt')", "goes: the worker loads", False),
        (
            "initialize(self, c):\n        self.net = Net()\n        self.net.load_state_dict(torch.load('w'))",
            "loads",
            True,
        ),
        ("initialize(self, c):\n        self.s = ort.InferenceSession('m.onnx')", "an ONNX session", True),
        (
            "initialize(self, c):\n        super().initialize(c)\n        self.words = read()",
            "stays, and begins",
            False,
        ),
        ("postprocess(self, data):\n        return data.tolist()", "goes: tensors are answered as lists", False),
        (
            "postprocess(self, data):\n        p, c = torch.topk(F.softmax(data, dim=1), 5)\n"
            "        return map_class_to_label(p.tolist(), self.mapping, c.tolist())",
            "goes: of pictures the topk classes",
            False,
        ),
        (
            "preprocess(self, data):\n        return torch.stack([torch.tensor(row['body']) for row in data])",
            "becomes preprocess_item(self, body, headers): the loop at line 3",
            True,
        ),
        (
            "handle(self, data, context):\n        x = self.preprocess(data)\n        y = self.inference(x)\n"
            "        return self.postprocess(y)",
            "goes: SmartBatchHandler has one",
            False,
        ),
        (
            "handle(self, data, context):\n        who = context.get_request_header(0, 'user')\n        return [who]",
            "goes; what it does to one request is preprocess_item(self, body, headers), to a whole batch",
            True,
        ),
        ("describe_handle(self):\n        return {}", "goes: `smartbatch status`", False),
    ],
)
def test_methods(tmp_path: Path, method: str, begins: str, by_hand: bool) -> None:
    advice = advice_on(tmp_path, f"class A(BaseHandler):\n    def {method}\n")
    name = method.partition("(")[0]
    becomes, found = said(advice, name)
    assert becomes.startswith(begins)
    assert found is by_hand
    if "get_request_header" in method:
        assert "the request's headers (line 3) are those of preprocess_item" in becomes


def test_an_async_method_needs_a_hand(tmp_path: Path) -> None:
    advice = advice_on(tmp_path, "class A(BaseHandler):\n    async def inference(self, x):\n        return x\n")
    assert said(advice, "inference")[1]


def test_pictures_that_a_handler_opens_go(tmp_path: Path) -> None:
    text = (
        "class A(BaseHandler):\n    def preprocess(self, data):\n"
        "        t = transforms.Compose([transforms.Resize(64), transforms.ToTensor()])\n"
        "        return torch.stack([t(Image.open(io.BytesIO(row['body']))) for row in data])\n"
    )
    advice = advice_on(tmp_path, text)
    assert said(advice, "preprocess") == ("goes: pictures are read by themselves, in base64 too", False)
    assert {"--set=image_resize=64", "--set=image_mean=0,0,0"} <= set(parsed(advice.command))


def test_a_function_is_a_handler_too(tmp_path: Path) -> None:
    text = "_service = A()\ndef handle(data, context):\n    return _service.inference(_service.preprocess(data))\n"
    advice = advice_on(tmp_path, text)
    assert (advice.handler, advice.num_by_hand) == ("handle", 1)


def test_parents_in_the_file_count_and_further_handlers_are_said(tmp_path: Path) -> None:
    text = (
        "class Base(ts.torch_handler.image_classifier.ImageClassifier):\n    topk = 2\n"
        "class A(Base):\n    def postprocess(self, data):\n        return data.tolist()\n"
        "class B(VisionHandler):\n    pass\nclass Helper:\n    pass\n"
    )
    advice = advice_on(tmp_path, text)
    assert (advice.handler, advice.base) == ("A", "ImageClassifier")
    assert "--set=topk=2" in parsed(advice.command)
    assert said(advice, "B")[1]


def test_one_of_ours_needs_nothing_but_for_old_names(tmp_path: Path) -> None:
    ours = "from smartbatch_handler import SmartBatchHandler\nclass A(SmartBatchHandler):\n"
    new = "    def preprocess_item(self, body, headers): ...\n    def inference(self, batch): ...\n"
    helper = "    def preprocess(self, body): ...\n"
    old = "    def postprocess(self, data):\n        return [len(row) for row in data]\n"
    assert advice_on(tmp_path, ours + new + helper).num_by_hand == 0
    advice = advice_on(tmp_path, ours + new + old)
    assert advice.num_by_hand == 1
    assert said(advice, "postprocess")[0].startswith("becomes postprocess_item")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def f(:", "is not Python"),
        ("x = 1", "has no handler"),
        ("class A:\n    pass", "has no handler"),
        ("x = " + "(" * 500 + ")" * 500, "is not Python"),
        ("\0", "is not Python"),
    ],
)
def test_what_is_no_handler(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"my_handler.py {why}"):
        advice_on(tmp_path, text)


@pytest.mark.parametrize("name", ["no_such_handler", "../x", "gone.py"])
def test_a_handler_that_is_nowhere(name: str) -> None:
    with pytest.raises(UsageError, match="must be a Python file, or one of TorchServe's own"):
        find_handler(name)


def test_the_command_and_its_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "birds.py").write_text(CLASSIFIER)
    (tmp_path / "reviews.py").write_text(TEXT)
    ready = CliRunner().invoke(app, ["migrate", str(tmp_path / "birds.py")])
    assert ready.exit_code == 0
    assert ready.output.endswith("Nothing needs a hand.\n")
    rest = CliRunner().invoke(app, ["migrate", str(tmp_path / "reviews.py"), "--json"])
    assert rest.exit_code == 1
    told = json.loads(rest.output)
    assert told["by_hand"] == 4
    assert set(told["findings"][0]) == {"line", "part", "becomes", "by_hand"}
    text = CliRunner().invoke(app, ["migrate", str(tmp_path / "reviews.py")])
    assert "BY HAND: becomes preprocess_item" in text.output
    assert text.output.endswith("4 of 9 need a hand.\n")
