"""A model of the server: what another batch size, delay or number of workers would do, without trying it.

`batches` forms batches as TorchServe does, `costs` says how long they take, `load` when requests come, `fit` reads the
costs from a running server, `score` compares settings. Pure: no network, no files, no clock.
"""
