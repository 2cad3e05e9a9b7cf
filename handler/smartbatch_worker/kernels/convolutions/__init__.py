"""Convolutions by Winograd's algorithm, and direct ones."""
