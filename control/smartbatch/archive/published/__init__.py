"""Models that a library knows by name: their published weights, how they are shown pictures, their classes' names.

One file a library. Each fetches, takes the user's file, or falls back to random weights and says so.
"""
