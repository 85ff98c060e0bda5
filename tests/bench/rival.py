"""Another model server on equal footing: `python -m tests.bench.rival MODULE:FUNCTION ARGUMENT...`.

Runs a program of the environment that it is started in, with what agentd gives its own engine on a
CPU; see `tests.bench.stock`. Nothing of its serving is changed.
"""

import importlib
import sys

from tests.bench.stock import level_field


def main() -> object:
    """Run the program with its arguments."""
    print(f"BLAS: {level_field()}", flush=True)
    module, _, name = sys.argv[1].partition(":")
    sys.argv = [module, *sys.argv[2:]]
    return getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[arg-type]
