"""`model_store/<name>.mar`: settings, weights, the files packed, and the proof that it loads and answers.

Beside `scoring` the only room of the control plane that runs the data plane's own code, and so the only one that
imports torch. Imports from no other room.
"""
