"""`smartbatch stress`: users in steps on one server; `run` does it, `files` writes the account, `plot` draws it.

May import from `load`, `account` and `draw`; nothing imports from here but its own `command`.
"""
