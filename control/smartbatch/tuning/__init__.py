"""`smartbatch tune`: the best batch size, delay and workers for an objective, by few trials on the running server.

`search` says what to try next, from the model of the server and from what was measured; `run` tries it, by retune;
`report` tells.
"""
