"""Changes of a running model that lose no request: retune, scale, register, unregister.

May import from `remote` and `server.batching`.
"""
