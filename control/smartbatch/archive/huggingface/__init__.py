"""`smartbatch archive --hf`: what a Hugging Face folder says of its model, as the keys of a handler's section.

    name ─hub─▶ folder ─describe─▶ task, inputs, labels, files        (the files are shipped as they are)

Reads JSON only; transformers loads the model in the check, as a worker does.
"""
