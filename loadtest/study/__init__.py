"""`smartbatch study`: settings compared in interleaved rounds; `run` does it, `rows` sums up, `files` and `plot` tell.

May import from `load`, `account` and `draw`; nothing imports from here but its own `command`.
"""
