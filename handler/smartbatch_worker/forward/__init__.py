"""A model's life and its forward: loaded, compiled, calibrated, run, unloaded."""
