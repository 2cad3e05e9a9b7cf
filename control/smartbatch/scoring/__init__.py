"""Many inputs through an archive's own handler, without a server: in the actors of a Ray cluster.

`inputs` says what the rows are and cuts them into parts, the same ones each time; `worker` is the handler in a process
of ours; `actor` reads a part, has it answered and writes it; `cluster` is Ray, which runs actors and tries again what
died with one; `destination` is where the parts appear, each whole or not at all, under its own name: so however often a
part is tried, its rows are there once. `places` opens folders and files wherever they are. `job` is the whole of it.
"""
