"""Where failures come from: true parts swapped in, one at a time, in the episodes that fail."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mujepa.evaluation.diagnostics import open_loop_error
from mujepa.evaluation.lab.simulated import SimulatedPolicy
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.policies import AgentPolicy, OraclePolicy, Policy
from mujepa.evaluation.sampling import Episodes, encode_states
from mujepa.evaluation.statistics import success_rate
from mujepa.planners import PlannerConfig, make_planner, sampling_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mujepa.agent.checkpoint import Checkpoint
    from mujepa.agent.jepa import JEPA
    from mujepa.agent.mpc import Agent
    from mujepa.envs.world import World
    from mujepa.evaluation.loop import Outcome
    from mujepa.evaluation.manifest import Manifest

UNKNOWN = 3.0
"""So many times the error on held-out experience: states that the data did not teach."""


def swaps(
    checkpoint: Checkpoint, world: World, agent: Agent, planner: PlannerConfig
) -> dict[str, Policy[Any]]:
    """Return what an agent becomes by each swap.

    `luck`: other noise, nothing else; `search`: four times the candidates, without proposals;
    `cost`: the goal's distance in the task's own quantities, as the probe reads them; `dynamics`:
    what the camera would see in place of what is imagined; `dynamics and cost`: both;
    `everything`: the oracle.

    Args:
        checkpoint: whose networks the agent uses.
        world: the simulator.
        agent: that fails.
        planner: its search.
    """
    everything = f"state({', '.join(checkpoint.networks.probe.names)})"
    success_cost = world.task.success_cost or everything
    cost = agent.configurator.cost.expression
    wide = replace(planner, samples=4 * planner.samples, elites=4 * planner.elites)
    blind = sampling_config(planner)  # the simulator has no gradient
    direct = checkpoint.agent(blind, success_cost, "planner")
    return {
        "luck": AgentPolicy(agent),
        "search": AgentPolicy(checkpoint.agent(wide, cost, "planner")),
        "cost": AgentPolicy(direct),
        "dynamics": SimulatedPolicy(checkpoint.agent(blind, cost, "planner"), world),
        "dynamics and cost": SimulatedPolicy(direct, world),
        "everything": OraclePolicy(world, make_planner(blind)),
    }


def attribute(
    policies: dict[str, Policy[Any]],
    jepa: JEPA,
    world: World,
    manifest: Manifest,
    outcome: Outcome,
    usual: Episodes,
    failures: int,
    on_step: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Try failed episodes again with each swap, and name the part that most failures owe to.

    Args:
        policies: from `swaps`.
        jepa: the agent's world model.
        world: the simulator.
        manifest: the episodes.
        outcome: what the agent made of them.
        usual: held-out experience, of what the data taught.
        failures: how many failed episodes to try again, the first ones.
        on_step: called after each environment step of each swap.

    Returns:
        `failures`, how many were tried; `rescued`, the share that each swap holds, with intervals;
        `unfamiliar`, how many times the usual error the world model makes in them; `cause`:
        `representation`, `dynamics`, `cost`, `search`, `data`, `luck`, or None without failures.
    """
    failed = np.flatnonzero(~outcome.held)[:failures]
    if not len(failed):
        return {"failures": 0, "rescued": {}, "cause": None}
    again = replace(
        manifest,
        episodes=[manifest.episodes[index] for index in failed],
        seeds=[manifest.seeds[index] + 1 for index in failed],
    )
    rescued = {}
    for name, policy in policies.items():
        held = run_episodes(world.task, world.image_size, policy, again, on_step).held
        rescued[name] = asdict(success_rate(int(held.sum()), len(failed)))
    unfamiliar = _step_error(jepa, _lived(jepa, world, outcome, failed)) / _step_error(jepa, usual)
    rates = {name: rate["rate"] for name, rate in rescued.items()}
    return {
        "failures": len(failed),
        "rescued": rescued,
        "unfamiliar": unfamiliar,
        "cause": name_cause(rates, unfamiliar),
    }


def name_cause(rescued: dict[str, float], unfamiliar: float) -> str:
    """Return the part that failures owe to.

    It is `luck` if other noise alone rescues at least half of what everything true does; otherwise
    the single swap that rescues most, if it closes at least half of the gap between luck
    and everything true: `search`, `cost` or `dynamics`, and `data` for dynamics that are wrong only
    in states unlike those of the data. If none does, but true dynamics with a true cost do, it is
    the better of these two; if not even they, who still look through the encoder, it is the
    `representation`. Where everything true does not help, search is what is left.

    Args:
        rescued: share of failures that each swap holds.
        unfamiliar: error of the world model where the agent was, in units of the usual one.
    """
    if not rescued["everything"]:
        return "search"
    if rescued["luck"] >= rescued["everything"] / 2:
        return "luck"
    gap = rescued["everything"] - rescued["luck"]
    gains = {name: (rate - rescued["luck"]) / gap for name, rate in rescued.items()}
    best = max(("search", "cost", "dynamics"), key=lambda name: gains[name])
    if gains[best] < 0.5:
        if gains["dynamics and cost"] < 0.5:
            return "representation"
        best = max(("cost", "dynamics"), key=lambda name: gains[name])
    return "data" if best == "dynamics" and unfamiliar > UNKNOWN else best


def _lived(jepa: JEPA, world: World, outcome: Outcome, episodes: NDArray[np.int64]) -> Episodes:
    """Return what the agent lived through in some episodes, by model step."""
    skip = world.task.frame_skip
    states = outcome.states[episodes, ::skip]
    actions = outcome.actions[episodes, ::skip][:, : states.shape[1] - 1]
    embeddings = encode_states(jepa, world, states)
    return Episodes(states, torch.from_numpy(world.to_unit(actions)).to(embeddings), embeddings)


@torch.no_grad()
def _step_error(jepa: JEPA, lived: Episodes) -> float:
    return open_loop_error(jepa, lived.embeddings, lived.actions, horizon=1)[0][0]
