"""One file a way of computing a model."""
