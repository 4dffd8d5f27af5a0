"""Runs one of the Procfile's commands with some of the product's constants overridden.

`python -m tests.support.override_constants worker '{"name": value}' OPTIONS`. A name is fully qualified, such as
`workers.dispatch.trimmer.TRIM_AFTER_S`; other constants keep their values.
"""

import json
import sys
from importlib import import_module

from cli.main import MODULES, projector


def main() -> None:
    command, constants = sys.argv[1], json.loads(sys.argv[2])
    import_module(MODULES[command])  # before the override: imported names keep the original value
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        owner = import_module(module)
        assert hasattr(owner, constant), name
        setattr(owner, constant, value)
    projector([command, *sys.argv[3:]], standalone_mode=False)


if __name__ == "__main__":
    main()
