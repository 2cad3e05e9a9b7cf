"""End a server without losing a request."""
