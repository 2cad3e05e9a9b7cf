"""The judge: SmartBatch beside its peers, beside its own limit, and as the work grows."""
