"""SmartBatch's data plane: what runs inside every TorchServe worker.

One concept a file, in the order of the data flow: `config`, `errors`, `decode`, `batch`, `model`, `recover`,
`encode`, `telemetry`. Everything here ships in each archive, so nothing here may import the control plane.
"""
