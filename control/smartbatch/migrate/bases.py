"""TorchServe's own handlers: what each becomes where nothing of it is overridden."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """One of TorchServe's handlers."""

    advice: str
    options: str = "--model-file model.py --model-path weights.pth"
    """Of `smartbatch archive`; "": there is no such archive."""
    by_hand: bool = False
    reads_pictures: bool = False


_PICTURES = (
    "pictures, also in base64, are read without any code; answers are the topk classes. "
    "A TorchScript model.pt needs no --model-file, one of torchvision's only --model NAME"
)
_LABELS = " --labels index_to_name.json"
_NOT_HERE = "text that goes on is vLLM's: its own server batches it token by token, which TorchServe cannot"
_SEVERAL_GPUS = "a model spread over several GPUs is not served here"

BASES: dict[str, Base] = {
    "BaseHandler": Base(
        advice='bodies are {"data": lists}, .npy or safetensors; say with --input-shape what one item is',
        options="--model-file model.py --model-path weights.pth --input-shape '*'",
    ),
    "VisionHandler": Base(
        advice=_PICTURES,
        options=f"--model-file model.py --model-path weights.pth --input-shape '3,*,*'{_LABELS}",
        reads_pictures=True,
    ),
    "ImageClassifier": Base(
        advice=f"{_PICTURES}. Each is {{label, index, score}}, where TorchServe writes {{label: score}}",
        options=f"--model-file model.py --model-path weights.pth --input-shape '3,*,*'{_LABELS}",
        reads_pictures=True,
    ),
    "ImageSegmenter": Base(
        advice="the masks of torchvision's models by name; clients may ask for them as .npy or safetensors",
        options="--model fcn_resnet101 --model-path weights.pth",
        reads_pictures=True,
    ),
    "ObjectDetector": Base(
        advice="torchvision's detectors by name; boxes below the `threshold` of 0.5 are told too, with their scores",
        options=f"--model fasterrcnn_resnet50_fpn --model-path weights.pth{_LABELS}",
        reads_pictures=True,
    ),
    "TextHandler": Base(
        advice="text is made ids of by a preprocess_item of yours, which gives a dict of the model's inputs",
        options="--model-file model.py --model-path weights.pth --input ids:int64:L:0",
        by_hand=True,
    ),
    "TextClassifier": Base(
        advice="its cleaning, n-grams and source_vocab.pt are TorchServe's: a preprocess_item(self, body, headers) of "
        "yours makes ids of one text, and a model.py takes them padded, with a mask, not as offsets into one row",
        options="--model-file model.py --model-path weights.pth --input ids:int64:L:0 --input mask:int64:L:0" + _LABELS,
        by_hand=True,
    ),
    "DALIHandler": Base(advice=f"NVIDIA's DALI is not used: {_PICTURES}", reads_pictures=True),
    "DALIImageClassifier": Base(
        advice=f"NVIDIA's DALI is not used: {_PICTURES}",
        options=f"--model-file model.py --model-path weights.pth --input-shape '3,*,*'{_LABELS}",
        reads_pictures=True,
    ),
    "DenseNetHandler": Base(
        advice="it unpickles what clients send, which runs their code: clients are to send .npy or safetensors instead",
        by_hand=True,
    ),
    "VLLMHandler": Base(advice=_NOT_HERE, options="", by_hand=True),
    "TRTLLMHandler": Base(advice=_NOT_HERE, options="", by_hand=True),
    "BasePippyHandler": Base(advice=_SEVERAL_GPUS, options="", by_hand=True),
    "BaseDeepSpeedHandler": Base(advice=_SEVERAL_GPUS, options="", by_hand=True),
}
"""By the name of the class."""
