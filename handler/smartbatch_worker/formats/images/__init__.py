"""JPEG, PNG and WebP: what a file holds is found out before it is decoded."""
