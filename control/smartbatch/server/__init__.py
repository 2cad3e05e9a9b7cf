"""A server on this machine: its settings, its Java, its start."""
