"""Rows in, rows out: decode, batch, recover, split, encode. It never sees TorchServe's context."""
