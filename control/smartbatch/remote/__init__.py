"""Any server, by its addresses: management, metrics, tokens, and the state file of one that was started here.

May import from no other room, so that all others may from here.
"""
