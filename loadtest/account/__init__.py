"""Record what was sent and answered, and hold it against the server's own count."""
