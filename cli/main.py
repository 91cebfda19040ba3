"""The `mujepa` command. Only the module of the chosen sub-command is imported."""

from __future__ import annotations

import importlib
import os
import sys

from mujepa import __version__
from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import suggestion
from mujepa.runtime.malloc import keep_freed_memory

COMMANDS = {
    "envs": "list the tasks, describe one, record its behaviour policy",
    "collect": "collect a dataset with the behaviour policy of a task",
    "import": "import a dataset of Minari",
    "export": "export a dataset to Minari's format",
    "train": "train an agent: world model, critic, actor",
    "evaluate": "evaluate a checkpoint: success rates with intervals, baselines, a report",
    "compare": "compare evaluations: paired tests, training seeds",
    "sweep": "train and evaluate several settings, on this machine or a cluster",
    "visualize": "open the what-if page of an agent, or write videos and pictures",
}
MODULES = {  # where they are not `mujepa.cli.COMMAND`
    "import": "mujepa.cli.import_data",
    "train": "mujepa.train",
    "evaluate": "mujepa.evaluate",
}
USAGE = "\n".join(
    [
        "usage: mujepa COMMAND ...",
        "",
        "An embodied agent that plans with a learned world model, in MuJoCo.",
        "",
        *[f"  {name:<10} {text}" for name, text in COMMANDS.items()],
        "",
        "mujepa COMMAND --help describes a command, mujepa --version prints the version.",
        "From nothing to an agent:",
        "",
        "  mujepa train reacher --out runs/reacher",
        "  mujepa evaluate runs/reacher --episodes 200",
    ]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help", "help", "--version"):
        print(f"mujepa {__version__}" if command == "--version" else USAGE)  # noqa: T201
        return 0
    if command not in COMMANDS:
        hint = suggestion(command, COMMANDS, f"commands: {', '.join(COMMANDS)}")
        console.error(f"unknown command {command!r}; {hint}")
        return 2
    # OpenMP threads that wait go to sleep sooner: as fast alone (102 against 109 ms per update on
    # two cores), 4 times as fast next to another busy process (229 against 900 ms).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    keep_freed_memory()
    path = MODULES.get(command, f"mujepa.cli.{command}")
    name = path.rpartition(".")[2]
    try:
        module = importlib.import_module(path)
    except RuntimeError as error:  # MuJoCo refuses some environment variables on import
        console.error(f"{error}; unset the variable to choose automatically")
        return 2
    config = getattr(module, f"{command.capitalize()}Config")
    return run(getattr(module, name), config, arguments[1:], f"mujepa {command}")
