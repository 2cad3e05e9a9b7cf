"""The only room that knows TorchServe: what it hands over, what it takes back, what it reads from a worker's output."""
