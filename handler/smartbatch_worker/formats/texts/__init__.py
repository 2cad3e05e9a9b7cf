"""Text: bodies of it, and the tokenizer that cuts it into what a model takes.

`bodies` reads JSON and plain text, `tokenizer` a tokenizer.json, by the library `tokenizers` (the extra `text`, which
is imported where an archive has one). `flow/texts.py` puts the two together: it knows the model's inputs.
"""
