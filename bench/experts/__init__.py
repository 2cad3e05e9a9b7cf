"""The peers as experts would write them: how each is set up by measuring, and its goodput under an objective.

`export` writes the model for the engines of `bench/servers/expert.py`, `search` chooses engine, processes and batch
size, `goodput` finds the highest rate within the objective, `run` does all that for `bench/peers.py`.
"""
