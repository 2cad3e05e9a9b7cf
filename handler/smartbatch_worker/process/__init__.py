"""What a worker's process shares with its siblings and takes from the system: cores, memory."""
