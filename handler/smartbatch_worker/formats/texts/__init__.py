"""Text: bodies of it, and the tokenizer that cuts it into what a model takes.

`bodies` reads JSON and plain text, `tokenizer` a tokenizer.json, by the library of that name (the extra "text"), which
is imported where an archive has one. `flow/texts/` puts the two together: it knows the model's inputs.
"""
