"""Build a model archive that has proved to load and to answer."""
