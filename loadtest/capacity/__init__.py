"""`smartbatch capacity`: the highest rate within an objective; `run` tries, `knee` decides, `files` and `plot` tell.

May import from `load`, `account` and `draw`; nothing imports from here but its own `command`.
"""
