"""`smartbatch autoscale`: as many workers as an objective needs, more when requests come and fewer when they do not.

`watching` looks at the metrics, `planning` asks the model of the server, `policy` decides, `run` does it.
"""
