"""The peers: each as its documentation teaches, and each around SmartBatch's own forward function."""
