"""What a client gets of a model's answer: `outputs` takes of it what is wanted, `tensor_files` writes it as tensors."""
