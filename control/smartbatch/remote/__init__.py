"""Talk to any server, wherever it was started: management, metrics, tokens, status."""
