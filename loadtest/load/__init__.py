"""Make the load: bodies, users, arrivals, and the server they go to."""
