"""What a running server does: its counters between two looks, and `smartbatch top`."""
