"""TorchServe's frontend as a program of Java's: its command line, and what makes it start faster."""
