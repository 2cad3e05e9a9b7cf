"""What becomes of a handler that was written for TorchServe: its source read, never run, and advice method by method.

    file ──source──▶ class, methods, calls ──rules──▶ verdicts ──advice──▶ findings, the archive command to type

Imports from no other room.
"""
