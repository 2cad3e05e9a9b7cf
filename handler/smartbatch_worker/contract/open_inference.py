"""Names of the Open Inference Protocol (v2), which the archive, the handler and the frontend use."""

from __future__ import annotations

TENSORS_FILE = "oip.json"
"""In the archive, {"inputs": [...], "outputs": [...]} of {"name", "datatype", "shape"} each; frontend/ knows it too."""
INPUT = "data"
"""The name of a model's one input."""
TEXT, TEXT_PAIR = "text", "text_pair"
"""Names of BYTES inputs, which a model with a tokenizer takes instead of its own."""
TEXTS = "BYTES"
"""The datatype of texts."""
OUTPUT = "result"
"""The name of a model's one output; several have the names of their dict, or their number behind it: result_0."""
FREE = -1
"""A size that requests may choose."""
DATATYPES = {
    "torch.bool": "BOOL",
    "torch.uint8": "UINT8",
    "torch.uint16": "UINT16",
    "torch.uint32": "UINT32",
    "torch.uint64": "UINT64",
    "torch.int8": "INT8",
    "torch.int16": "INT16",
    "torch.int32": "INT32",
    "torch.int64": "INT64",
    "torch.float16": "FP16",
    "torch.bfloat16": "BF16",
    "torch.float32": "FP32",
    "torch.float64": "FP64",
}
"""By torch's name of them."""
