"""All C, and what builds and calls it; README.md says in what style, and how it is tested.

`native` compiles a file for this machine's processor; the others each prepare their own and say when it did not do the
work, for a slower way in Python to take over. The room imports nothing of the handler's but `contract`.
"""
