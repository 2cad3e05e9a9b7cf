"""One target under atheris (libFuzzer): mutations that reach new code are kept and mutated further.

    python -m fuzz.guided TARGET [libFuzzer flags] CORPUS_DIR

A finding ends it with a non-zero status and leaves the body in ./crash-*.
"""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["smartbatch_worker", "PIL", "fuzz.targets"]):
    from fuzz.seeds import REPAIRS
    from fuzz.targets import TARGETS


def main() -> None:
    """Run until the number of runs or seconds in the flags is reached."""
    target = TARGETS[sys.argv.pop(1)]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        mutated: bytes = atheris.Mutate(data, max_size)
        repair = REPAIRS.get(target.name)
        if repair is not None and random.Random(seed).random() < 0.5:
            mutated = repair(mutated)[:max_size]
        return mutated

    atheris.Setup(sys.argv, target.run_once, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
