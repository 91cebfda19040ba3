"""The `mujepa` command: one sub-command for each script. Only the chosen script is imported."""

from __future__ import annotations

import importlib
import os
import sys

from mujepa.runtime import console
from mujepa.runtime.command import run
from mujepa.runtime.errors import suggestion
from mujepa.runtime.malloc import keep_freed_memory

COMMANDS = {
    "envs": (
        "envs",
        "EnvsConfig",
        "list the tasks, show one, watch its behaviour policy -> video",
    ),
    "collect": (
        "collect",
        "CollectConfig",
        "collect experience: environment + behaviour policy -> dataset",
    ),
    "import": (
        "import_data",
        "ImportConfig",
        "import experience: dataset of Minari's -> dataset",
    ),
    "export": (
        "export",
        "ExportConfig",
        "export experience: dataset -> dataset of Minari's",
    ),
    "train": (
        "train",
        "TrainConfig",
        "train an agent: dataset -> world model, critic -> checkpoint",
    ),
    "evaluate": (
        "evaluate",
        "EvaluateConfig",
        "judge a checkpoint: success with intervals and bounds -> report",
    ),
    "compare": (
        "compare",
        "CompareConfig",
        "compare evaluations: pairs of episodes, training seeds -> report",
    ),
    "sweep": (
        "sweep",
        "SweepConfig",
        "train and judge several settings, on one machine or many -> comparison",
    ),
    "visualize": (
        "visualize",
        "VisualizeConfig",
        "watch an agent, or ask it what if: reality and imagination -> video, page",
    ),
}
USAGE = "\n".join(
    [
        "usage: mujepa COMMAND ...",
        "",
        "An embodied agent that plans with a learned world model, in MuJoCo.",
        "",
        *[f"  {name:<10} {text}" for name, (_, _, text) in COMMANDS.items()],
        "",
        "mujepa COMMAND --help tells about one. From nothing to an agent:",
        "",
        "  mujepa train reacher --out runs/reacher",
        "  mujepa evaluate runs/reacher --episodes 200",
    ]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)  # noqa: T201 - the command line's own output
        return 0
    if arguments[0] not in COMMANDS:
        hint = suggestion(arguments[0], COMMANDS, f"commands: {', '.join(COMMANDS)}")
        return _print_error(f"unknown command {arguments[0]!r}; {hint}")
    # Let torch's threads sleep soon when they wait: as fast alone (102 against 109 ms per update on
    # two cores), 4 times as fast beside another busy process (229 against 900 ms).
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    keep_freed_memory()
    module_name, config_name, _ = COMMANDS[arguments[0]]
    try:
        root = "mujepa" if module_name in ("train", "evaluate") else "mujepa.cli"
        module = importlib.import_module(f"{root}.{module_name}")
    except RuntimeError as error:  # MuJoCo refuses some environment variables as it is imported
        return _print_error(f"{error}; unset the variable to choose automatically")
    return run(
        getattr(module, module_name),
        getattr(module, config_name),
        arguments[1:],
        f"mujepa {arguments[0]}",
    )


def _print_error(message: str) -> int:
    console.error(message)
    return 2


if __name__ == "__main__":
    sys.exit(main())
