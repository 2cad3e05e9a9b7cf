"""Workers forked where PyTorch is loaded already: the fork server, and the stand-ins that TorchServe starts."""
