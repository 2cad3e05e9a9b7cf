"""Change a running model without losing a request: batch size, delay, workers, versions."""
