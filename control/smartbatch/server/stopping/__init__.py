"""How a server ends without losing a request: who asks for it, the signals, the drain and its outcome.

May import from `remote` and `server.running`.
"""
