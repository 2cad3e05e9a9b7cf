"""Hostile bodies against every decoder: seeds, oracles, and a coverage-guided run (`python -m fuzz`)."""
