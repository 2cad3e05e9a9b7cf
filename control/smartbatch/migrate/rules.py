"""Method by method, what goes, what stays, what needs a hand."""

from __future__ import annotations

import ast
from collections.abc import Callable

from smartbatch.migrate.bases import Base
from smartbatch.migrate.pictures import settings_of, transforms_of
from smartbatch.migrate.source import HandlerSource, Method, dotted

Verdict = tuple[str, bool, bool]
"""What a method becomes, whether by hand, and whether the handler is one of the user's own then."""


def _initialize(source: HandlerSource, method: Method, base: Base | None) -> Verdict:
    calls = method.calls
    told = [name for name in calls if name.rpartition(".")[2] in _LOADERS]
    if any("AsyncLLMEngine" in name or name.startswith("vllm") for name in calls):
        return "a vLLM engine: its own server is what it is made for", True, False
    if any(name.endswith(("from_pretrained", "pipeline")) for name in calls):
        line = next(line for name, line in calls.items() if name.endswith(("from_pretrained", "pipeline")))
        return (
            f"goes, but for the model of line {line}: `smartbatch archive --hf FOLDER`, if its task is one of those; "
            "else a model.py whose class builds it without weights (from_config), its state dict as --model-path, and "
            "--input for each tensor that it takes",
            True,
            False,
        )
    if any(name.endswith("InferenceSession") for name in calls):
        return "an ONNX session is not served here: archive the PyTorch model that it was made of", True, False
    if told == ["torch.jit.load"]:
        return "goes: the worker loads --model-path model.pt (TorchScript)", False, False
    if told:
        lines = ", ".join(sorted({str(calls[name]) for name in told}, key=int))
        return (
            f"loads the model itself (line {lines}): its class goes to model.py, its weights are --model-path; what "
            "else it sets up stays in an initialize(self, context) that begins with super().initialize(context)",
            True,
            True,
        )
    rest = [node for node in method.statements if not _is_super(node) and not _sets_constant(node)]
    if not rest:
        return "goes: the worker loads the model", False, False
    return "stays, and begins with super().initialize(context)", "super" not in "".join(calls), True


_LOADERS = ("load", "load_state_dict", "aot_load", "load_file", "load_model")


def _preprocess(source: HandlerSource, method: Method, base: Base | None) -> Verdict:
    calls = method.calls
    opens = any(name.endswith("Image.open") for name in calls) or "self.image_processing" in calls
    found = transforms_of(source)
    is_known = found is not None and not isinstance(settings_of(found[1]), str)
    if opens and (is_known or (found is None and base is not None and base.reads_pictures)):
        return "goes: pictures are read by themselves, in base64 too", False, False
    if tokenises(method):
        return (
            f"becomes preprocess_item(self, body, headers): {_one_of_loop(method)}. Give a dict of its ids and mask, "
            f"not padded: {TOKENS} has them padded together",
            True,
            True,
        )
    return (
        f"becomes preprocess_item(self, body, headers): {_one_of_loop(method)}. Give one tensor without a batch "
        'dimension. It goes altogether where clients send {"data": lists}, .npy, safetensors or pictures',
        True,
        True,
    )


def tokenises(method: Method) -> bool:
    """Whether it makes ids of text."""
    names = " ".join(method.calls).lower()
    return "token" in names or "encode_plus" in names


TOKENS = "--input input_ids:int64:L:0 --input attention_mask:int64:L:0"
"""Of `smartbatch archive`, for what most tokenizers give."""


def _one_of_loop(method: Method) -> str:
    loops = [node.lineno for node in ast.walk(method.node) if isinstance(node, (ast.For, ast.ListComp))]
    where = f"the loop at line {loops[0]}" if loops else "what is done to one request"
    return f'{where}, for one request, whose bytes are `body` (no row.get("data")); stacking and .to(device) go'


def _inference(source: HandlerSource, method: Method, base: Base | None) -> Verdict:
    calls = method.calls
    inside = [(name, line) for name, line in calls.items() if name.startswith("self.model.")]
    inside += [(f"self.model.{attr}", line) for attr, line in _model_attributes(method).items()]
    if inside:
        name, line = inside[0]
        return (
            f"stays, but for {name} at line {line}: self.model is called and has nothing of the module's; that call "
            "goes into the forward of model.py",
            True,
            True,
        )
    for node in ast.walk(method.node):
        if isinstance(node, ast.Call) and dotted(node.func) == "self.model":
            plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
            named = [keyword for keyword in node.keywords if keyword.arg is not None]
            if len(plain) > 1 or (plain and named):
                return (
                    f"stays, but for the call of self.model at line {node.lineno}: one batch, or all inputs by name "
                    "(declared by --input)",
                    True,
                    True,
                )
    if not any(name == "self.model" or name.endswith(".inference") for name in calls):
        return "calls no self.model: what it computes goes into the forward of model.py", True, True
    return "stays: it is called for whole micro-batches, on the CPU until .to(self.device)", False, True


def _model_attributes(method: Method) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in ast.walk(method.node):
        if isinstance(node, ast.Attribute) and dotted(node.value) == "self.model":
            found.setdefault(node.attr, node.lineno)
    return found


def _postprocess(source: HandlerSource, method: Method, base: Base | None) -> Verdict:
    names = {name.rpartition(".")[2] for name in method.calls}
    if names <= {"tolist", "cpu", "detach", "numpy"}:
        return "goes: tensors are answered as lists", False, False
    known = {"softmax", "topk", "tolist", "map_class_to_label", "cpu", "detach", "get_max_result_classes"}
    if {"softmax", "topk"} <= names <= known:
        return "goes: of pictures the topk classes are answered, with --labels by name", False, False
    return (
        "becomes postprocess_item(self, output): one item's output to its answer (output[key] where the model gives a "
        "dict); what needs the whole batch goes behind self.model(batch) in inference(self, batch)",
        True,
        True,
    )


def _handle(source: HandlerSource, method: Method, base: Base | None) -> Verdict:
    calls = method.calls
    steps = {"preprocess", "inference", "postprocess"} & {
        name.partition(".")[2] for name in calls if name.startswith(("self.", "_service.", "service."))
    }
    asks = [line for name, line in calls.items() if name.endswith(("get_request_header", "get_all_request_header"))]
    header = f"; the request's headers (line {asks[0]}) are those of preprocess_item" if asks else ""
    if "handle" in {name.rpartition(".")[2] for name in calls} and not steps:
        return "goes: the class is called by itself", False, False
    if len(steps) == 3 and not asks:
        return "goes: SmartBatchHandler has one, with errors, deadlines and micro-batches", False, False
    return (
        "goes; what it does to one request is preprocess_item(self, body, headers), to a whole batch inference(self, "
        f"batch), to one answer postprocess_item(self, output){header}",
        True,
        False,
    )


def _dropped(text: str) -> Callable[[HandlerSource, Method, Base | None], Verdict]:
    return lambda source, method, base: (text, False, False)


def _init(source: HandlerSource, method: Method, base: Base | None) -> Verdict:
    rest = [node for node in method.statements if not _is_super(node) and not _sets_constant(node)]
    return ("goes" if not rest else "stays", False, bool(rest))


RULES: dict[str, Callable[[HandlerSource, Method, Base | None], Verdict]] = {
    "__init__": _init,
    "initialize": _initialize,
    "preprocess": _preprocess,
    "inference": _inference,
    "postprocess": _postprocess,
    "handle": _handle,
    "explain_handle": _dropped("goes: explanations are not served"),
    "get_insights": _dropped("goes: explanations are not served"),
    "describe_handle": _dropped("goes: `smartbatch status` tells what a worker is"),
}
"""By name; any other method is a helper."""


def _is_super(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and dotted(node.value).startswith("super.")


def _sets_constant(node: ast.stmt) -> bool:
    """self.initialized = True, self.model = None and the like: BaseHandler's own housekeeping."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    is_own = all(isinstance(target, ast.Attribute) and target.attr in _HOUSEKEEPING for target in targets)
    return bool(targets) and is_own


_HOUSEKEEPING = (
    "initialized",
    "context",
    "manifest",
    "model",
    "device",
    "mapping",
    "map_location",
    "explain",
    "target",
)
