"""A server on this machine: settings, start, serve, drain, stop.

May import from `remote` and `retune.store`; programs import `start_server` and `ServerSettings` from `smartbatch`.
"""
