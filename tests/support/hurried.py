"""One of the Procfile's commands, with some of the product's constants changed: `… hurried worker '{"name": value}'`.

Options of the command may follow.

Of a constant the whole name is given, such as `workers.dispatch.trimmer.TRIM_BEHIND_S`; what is not named stays as it is.
"""

import json
import sys
from importlib import import_module

from cli.main import MODULES, projector


def main() -> None:
    command, constants = sys.argv[1], json.loads(sys.argv[2])
    import_module(MODULES[command])  # what copies a constant from another module keeps the value it has there
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        owner = import_module(module)
        assert hasattr(owner, constant), name
        setattr(owner, constant, value)
    projector([command, *sys.argv[3:]], standalone_mode=False)


if __name__ == "__main__":
    main()
