"""The commands: one file each, which reads options, calls a room that does the work, and prints what came of it.

`smartbatch.cli.COMMANDS` is the table of all of them; `options` says every option once, `output` prints.
A command may import from every room of `smartbatch`, and does so when it runs, so that all of them start fast. No room
imports from here.
"""
