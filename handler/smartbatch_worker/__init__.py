"""SmartBatch's data plane: what runs inside every TorchServe worker.

One room a job: `torchserve` reads requests and writes replies, `flow` takes rows from decoding to encoding, `formats`
reads bodies, `models` builds modules, `forward` runs them, `kernels` is the C, `process` what workers share.
`contract` is what both planes have agreed on, `errors` the tree of a row's errors. Everything here ships in each
archive, so nothing here may import the control plane.
"""
