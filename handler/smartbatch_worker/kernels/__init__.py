"""All C, and what builds and calls it; each has a slower way in Python, which its tests compare it with."""
