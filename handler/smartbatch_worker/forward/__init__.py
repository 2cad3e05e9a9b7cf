"""The model in memory: loaded, compiled, measured, run, freed.

`managed` is what the handler holds; `choose` makes a module a function of one batch by one of `compilers/`, in a
`precision`; `calibrate` finds the micro-batch; both keep what they `measure`. Modules come from `models/`, C from
`kernels/`; nothing here knows rows, requests or TorchServe.
"""
