"""Convolutions of our own: `layers` to put in place of PyTorch's, the numbers of their `transforms`, and winograd.c.

What swaps a model's layers is `forward/compilers/winograd.py`.
"""
