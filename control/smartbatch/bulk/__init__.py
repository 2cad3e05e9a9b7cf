"""Many inputs to one model, each answered exactly once, however often the work is interrupted.

`sources` says what the rows are (files, lines, a table) and how each becomes a body; `run` sends them, several at a
time; `journal` keeps each answer as it comes, beside the output; `outputs` makes the output of the journal once every
row is in it. `job` is the whole of it.
"""
