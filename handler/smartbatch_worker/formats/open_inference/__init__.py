"""The Open Inference Protocol's requests: `request` reads one whole, `tensors` its numbers and texts.

    JSON {"id", "inputs": [{"name", "shape", "datatype", "data" or a size}], "outputs"} and then, in the order of the
    inputs, the bytes of those that say a size (Triton's binary extension)

Source: the protocol's description (kserve/open-inference-protocol) and that of Triton's binary tensor data extension.
"""
