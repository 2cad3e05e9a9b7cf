"""Every kind of model through HTTP, on one server; a package, so that the server ends with its last test."""
