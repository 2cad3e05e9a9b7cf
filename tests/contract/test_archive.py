"""The archive itself: it holds the handler, the weights, the configuration and the labels, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load
from smartbatch.archive.build import ArchiveError, ArchiveSettings, build_archive
from smartbatch.archive.huggingface import describe
from smartbatch.archive.stage import HANDLER_DIR
from smartbatch_worker.contract.config import WorkerConfig
from smartbatch_worker.models.load import build_model
from smartbatch_worker.models.torchvision import build_torchvision

from tests import small_transformers

_SOURCES = {Path("smartbatch_handler.py")} | {
    path.relative_to(HANDLER_DIR)
    for path in (HANDLER_DIR / "smartbatch_worker").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
_BYTECODE = {Path(importlib.util.cache_from_source(str(path))) for path in _SOURCES if path.suffix == ".py"}
HANDLER_FILES = {path.as_posix() for path in _SOURCES | _BYTECODE}


def archive(tmp_path: Path, **keys: Any) -> Path:
    return build_archive(ArchiveSettings(output=tmp_path / "store", **keys))


def affine(tmp_path: Path, source: Path, **keys: Any) -> Path:
    return archive(
        tmp_path, **{"model_file": source / "model.py", "model_path": source / "w.pth", "input_shape": "4", **keys}
    )


def refusal(tmp_path: Path, **keys: Any) -> str:
    with pytest.raises(ArchiveError) as caught:
        archive(tmp_path, **keys)
    assert not list((tmp_path / "store").glob("*")), "a failed archive leaves nothing behind"
    return str(caught.value)


def read_config(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as mar:
        loaded = yaml.safe_load(mar.read("model-config.yaml"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision classifier with random weights."""
    folder = tmp_path_factory.mktemp("classifier")
    return archive(folder, model="squeezenet1_1", random_weights=True)


def test_a_classifiers_archive_holds_what_a_worker_needs_and_nothing_else(classifier: Path) -> None:
    with zipfile.ZipFile(classifier) as mar:
        names = set(mar.namelist())
        labels = json.loads(mar.read("index_to_name.json"))
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))
        tensors = json.loads(mar.read("oip.json"))
    extras = {"model-config.yaml", "weights.safetensors", "index_to_name.json", "oip.json", "MAR-INF/MANIFEST.json"}
    assert names == HANDLER_FILES | extras
    assert tensors == {
        "inputs": [{"name": "data", "datatype": "FP32", "shape": [-1, 3, -1, -1]}],
        "outputs": [{"name": "result", "datatype": "FP32", "shape": [-1, 1000]}],
    }
    assert (len(labels), labels["0"]) == (1000, "tench")
    assert manifest["model"] == {
        "modelName": "squeezenet1_1",
        "modelVersion": "1.0",
        "handler": "smartbatch_handler.py",
        "configFile": "model-config.yaml",
    }


@pytest.mark.parametrize(
    ("keys", "model", "outputs"),
    [
        ({"model": "lraspp_mobilenet_v3_large"}, "lraspp_mobilenet_v3_large", [("out", [-1, 21, -1, -1])]),
        ({"timm": "vit_tiny_patch16_224"}, "timm/vit_tiny_patch16_224", [("result", [-1, 1000])]),
    ],
    ids=["segmentation", "timm"],
)
def test_models_by_name_bring_their_preprocessing(
    tmp_path: Path, keys: dict[str, Any], model: str, outputs: list[tuple[str, list[int]]]
) -> None:
    path = archive(tmp_path, random_weights=True, **keys)
    with zipfile.ZipFile(path) as mar:
        tensors = json.loads(mar.read("oip.json"))
        labels = json.loads(mar.read("index_to_name.json"))
        mar.extractall(tmp_path / "unpacked")
    section = read_config(path)["handler"]
    config = WorkerConfig.resolve(section, {})
    assert (config.model, config.weights_source, len(labels)) == (model, "random", outputs[0][1][1])
    assert [(tensor["name"], tensor["shape"]) for tensor in tensors["outputs"]] == outputs
    if "timm" in keys:
        assert (config.image_resize, config.image_crop, config.image_interpolation) == (248, 224, "bicubic")
        assert config.input_shape == (3, 224, 224)
    else:
        assert config.image_size is None
    build_model(config, tmp_path / "unpacked")


def test_random_weights_are_recorded_as_such(classifier: Path) -> None:
    section = read_config(classifier)["handler"]
    assert section["weights_source"] == "random"
    assert section["weights_note"] == "random seed 0 (NOT pretrained)"
    assert (section["image_resize"], section["image_crop"]) == (256, 224)


def test_what_was_archived_is_what_loads(classifier: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(classifier) as mar:
        mar.extractall(tmp_path)
    module = build_model(WorkerConfig.resolve(read_config(classifier)["handler"], {}), tmp_path)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(module(images), build_torchvision("squeezenet1_1", None, random_seed=0).eval()(images))


def test_same_input_same_bytes(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = affine(tmp_path, source, version="2.5").read_bytes()
    path = affine(tmp_path, source, version="2.5", force=True)
    assert path.name == "affine.mar"
    assert path.read_bytes() == first
    with zipfile.ZipFile(path) as mar:
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))
        weights = load(mar.read("weights.safetensors"))
    assert manifest["model"]["modelVersion"] == "2.5"
    assert manifest["createdOn"] == "14/11/2023 22:13:20"
    assert weights["linear.weight"].tolist() == [[2.0] * 4] * 2
    assert read_config(path)["handler"]["weights_note"] == "file w.pth"


_COMPILED = """
import sys
compiled = []
sys.addaudithook(lambda event, args: compiled.append(str(args[1])) if event == "compile" else None)
import smartbatch_handler
print(smartbatch_handler.__file__)
print([name for name in compiled if name.endswith(".py")])
"""


def test_workers_compile_nothing_that_is_as_it_was_archived(classifier: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(classifier) as mar:
        mar.extractall(tmp_path)

    def run() -> list[str]:
        env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", _COMPILED]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout.splitlines()

    handler, errors = tmp_path / "smartbatch_handler.py", tmp_path / "smartbatch_worker" / "errors.py"
    assert run() == [str(handler), "[]"]
    errors.write_text(errors.read_text().replace("class ", "class  ", 1))
    assert run() == [str(handler), repr([str(errors)])]


def test_handler_labels_and_extra_files_of_ones_own(tmp_path: Path, source: Path) -> None:
    (source / "mine.py").write_text(
        "from smartbatch_handler import SmartBatchHandler\nfrom mine_rules import RULE\n"
        "class Mine(SmartBatchHandler):\n    rule = RULE\n"
    )
    extra = tmp_path / "extra"
    (extra / "__pycache__").mkdir(parents=True)
    (extra / "__pycache__" / "mine_rules.pyc").write_bytes(b"")
    (extra / "mine_rules.py").write_text("RULE = 1\n")
    (source / "labels.txt").write_text("low\nhigh\n")
    path = affine(tmp_path, source, handler=source / "mine.py", extra_files=(extra,), labels=source / "labels.txt")
    with zipfile.ZipFile(path) as mar:
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))
        assert json.loads(mar.read("index_to_name.json")) == {"0": "low", "1": "high"}
        files = {"mine.py", "mine_rules.py", "model.py", "model-config.yaml", "weights.safetensors", "oip.json"}
        assert set(mar.namelist()) == HANDLER_FILES | files | {"index_to_name.json", "MAR-INF/MANIFEST.json"}
    assert manifest["model"]["handler"] == "mine.py"


def test_exported_programs_tell_their_own_shape(tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(torch.nn.Linear(4, 3), (torch.zeros(2, 4),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "net.pt2")
    path = archive(tmp_path, model_path=tmp_path / "net.pt2")
    assert path.name == "net.mar"
    section = read_config(path)["handler"]
    assert (section["model"], section["input_shape"]) == ("model.pt2", [4])
    assert (section["weights_source"], section["weights_note"]) == ("embedded", "embedded in net.pt2")


def test_corrupt_weights(tmp_path: Path, source: Path) -> None:
    path = source / "w.pth"
    path.write_bytes(path.read_bytes()[:200])
    message = refusal(tmp_path, model_file=source / "model.py", model_path=path)
    assert message.startswith(f"{path}: corrupt")


def test_a_model_that_kills_its_process(tmp_path: Path, source: Path) -> None:
    (source / "model.py").write_text("import os\nos._exit(3)\n")
    assert "exit code 3" in refusal(tmp_path, model_file=source / "model.py")


def test_the_command_says_it_on_stderr_and_exits_nonzero(tmp_path: Path, source: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "smartbatch.cli", "archive", "--output", str(tmp_path / "store")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240)

    model = ["--model-file", str(source / "model.py"), "--input-shape", "4"]
    built = run(*model, "--model-path", str(source / "w.pth"), "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["archive"] == str(tmp_path / "store" / "affine.mar")
    assert "checking that affine loads and answers" in built.stderr
    missing = run(*model, "--model-path", str(source / "absent.pth"), "--force")
    assert missing.returncode == 2
    assert f"{source / 'absent.pth'}: no such file" in missing.stderr


def test_a_large_answer_is_held_against_the_servers_limit_wherever_it_is_built(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight megabytes, as masks are: TorchServe's own limit is 6.5, and config.properties is not in every folder."""
    (source / "model.py").write_text(
        "import torch\nclass Wide(torch.nn.Module):\n    def forward(self, x):\n        return x.repeat(1, 200_000)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert archive(tmp_path, model_file=source / "model.py", input_shape="4").is_file()


def test_the_check_asks_the_handler_and_ships_none_of_what_that_leaves(tmp_path: Path, source: Path) -> None:
    """A handler that prints, writes into its archive's folder, and has a thread that never ends."""
    (source / "mine.py").write_text(
        "import threading\nfrom pathlib import Path\nfrom smartbatch_handler import SmartBatchHandler\n"
        "class Mine(SmartBatchHandler):\n"
        "    def initialize(self, context):\n"
        '        print(\'{"error": "no answer"}\', flush=True)\n'
        "        (Path(context.system_properties['model_dir']) / 'left-behind').write_text('x')\n"
        "        threading.Thread(target=threading.Event().wait).start()\n"
        "        super().initialize(context)\n"
        "    def preprocess_item(self, body, headers):\n"
        "        assert headers['content-type'] == 'text/csv'\n"
        "        import torch\n"
        "        return torch.tensor([float(value) for value in bytes(body).split(b',')])\n"
    )
    (source / "line.csv").write_text("1,2,3,4")
    path = affine(tmp_path, source, handler=source / "mine.py", example=source / "line.csv", labels=None)
    with zipfile.ZipFile(path) as mar:
        files = {"mine.py", "model.py", "model-config.yaml", "weights.safetensors", "oip.json", "MAR-INF/MANIFEST.json"}
        assert set(mar.namelist()) == HANDLER_FILES | files | {"example.csv"}
        assert json.loads(mar.read("oip.json"))["inputs"] == [], "what its preprocess_item reads is its own affair"


def test_what_the_handler_is_refused_for_names_the_users_file(tmp_path: Path, source: Path) -> None:
    (source / "mine.py").write_text(
        "from smartbatch_handler import SmartBatchHandler\n"
        "class Mine(SmartBatchHandler):\n    def postprocess_item(self, output):\n        raise KeyError('no such')\n"
    )
    message = refusal(
        tmp_path,
        model_file=source / "model.py",
        model_path=source / "w.pth",
        input_shape="4",
        handler=source / "mine.py",
    )
    assert message.startswith(f"{source / 'mine.py'}: "), message
    assert "KeyError: 'no such'" in message


def test_a_hugging_face_folder_is_shipped_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    small_transformers.bert(
        folder, "ForSequenceClassification", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}
    )
    path = archive(tmp_path, hf=str(folder))
    assert path.name == "bert.mar"
    shipped = ("config.json", "model.safetensors", "tokenizer.json")
    with zipfile.ZipFile(path) as mar:
        assert {name for name in mar.namelist() if name.startswith("hf/")} == {f"hf/{name}" for name in shipped}
        for name in shipped:
            assert mar.read(f"hf/{name}") == (folder / name).read_bytes()
        assert json.loads(mar.read("index_to_name.json")) == {"0": "no", "1": "yes"}
        assert json.loads(mar.read(read_config(path)["handler"]["example"])) == describe.EXAMPLE
        tensors = json.loads(mar.read("oip.json"))
    assert [told["name"] for told in tensors["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert read_config(path)["handler"]["weights_note"] == "file bert/model.safetensors"
