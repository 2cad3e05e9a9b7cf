"""One file a body format: bytes to tensors, within bounds that are checked before anything is built."""
