"""Failure attribution: repeat failed episodes with one part replaced by a true one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mujepa.agent.configurator import Configurator
from mujepa.agent.jepa import JEPA
from mujepa.agent.memory import Memory
from mujepa.agent.mpc import AgentState
from mujepa.envs.world import World
from mujepa.evaluation.diagnostics import open_loop_error
from mujepa.evaluation.held_out import Episodes, encode_states
from mujepa.evaluation.loop import Outcome, run_episodes
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.policies import (
    Actions,
    AgentPolicy,
    Info,
    Observation,
    OraclePolicy,
    Policy,
)
from mujepa.evaluation.runner import Setup
from mujepa.evaluation.statistics import rate_of
from mujepa.planners import make_planner, sampling_config
from mujepa.runtime import console

UNFAMILIAR = 3.0
"""Error of the world model, over that on held-out episodes, that makes a state unfamiliar."""


@dataclass(frozen=True)
class SimulatedConfigurator(Configurator):
    """A configurator that runs candidates in the simulator and encodes the rendered images."""

    world: World
    states: NDArray[np.float64]  # present ones of the environments, (B, S)

    def rollout(self, memory: Memory, actions: Tensor) -> Tensor:
        """Run action sequences (B, N, H, A); return the embeddings (B, N, H, D) of the images."""
        batch, candidates, horizon, size = actions.shape
        controls = self.world.from_unit(actions.reshape(-1, horizon, size).cpu().numpy())
        starts = self.states.repeat(candidates, axis=0)
        states, _ = self.world.rollout(starts, controls, self.world.task.frame_skip)
        images = (self.world.observe(step, self.jepa.observes) for step in states.swapaxes(0, 1))
        embeddings = [self.jepa.encode(torch.from_numpy(it).to(actions.device)) for it in images]
        return torch.stack(embeddings, dim=1).unflatten(0, (batch, candidates))


@dataclass(frozen=True)
class SimulatedPolicy(AgentPolicy):
    """The agent with the simulator in place of its predictor.

    What this policy holds and the agent does not is lost by the world model; what it does not hold
    and the oracle does, by the representation or the cost.
    """

    world: World

    def reset(self, observation: Observation, info: Info, seeds: Sequence[int]) -> AgentState:
        """Start the episodes, which must not vary: only the task's own world is simulated."""
        if "variation" in info:
            raise ValueError("episodes that vary cannot be simulated in the task's own world")
        return super().reset(observation, info, seeds)

    def act(self, state: AgentState, observation: Observation) -> tuple[AgentState, Actions]:
        """Plan from the simulator's states."""
        agent, usual = copy.copy(self.agent), self.agent.configurator
        agent.configurator = SimulatedConfigurator(
            usual.jepa, usual.critic, usual.cost, self.world, observation["state"]
        )
        return agent.act(state, observation[agent.observes])


def swapped_policies(setup: Setup) -> dict[str, Policy[Any]]:
    """Return the agent with one part swapped, by name of the swap.

    `luck`: other random numbers; `search`: four times the candidates, without an actor; `cost`: the
    distance to the goal in the task's own quantities, as the probe reads them; `dynamics`: the
    simulator in place of the predictor; `dynamics and cost`: both; `everything`: the oracle.
    """
    checkpoint, planner, world = setup.checkpoint, setup.planner, setup.world
    true_cost = world.task.success_cost or f"state({', '.join(checkpoint.networks.probe.names)})"
    cost = setup.agent.configurator.cost.expression
    wide = replace(planner, samples=4 * planner.samples, elites=4 * planner.elites)
    planner = sampling_config(planner)  # the simulator has no gradient
    direct = checkpoint.agent(planner, true_cost, "planner")
    return {
        "luck": AgentPolicy(setup.agent),
        "search": AgentPolicy(checkpoint.agent(wide, cost, "planner")),
        "cost": AgentPolicy(direct),
        "dynamics": SimulatedPolicy(checkpoint.agent(planner, cost, "planner"), world),
        "dynamics and cost": SimulatedPolicy(direct, world),
        "everything": OraclePolicy(world, make_planner(planner)),
    }


def attribute(
    setup: Setup, manifest: Manifest, outcome: Outcome, held_out: Episodes, failures: int
) -> dict[str, Any]:
    """Repeat the first failed episodes with each swap, and name the cause of most failures.

    `rescued` is the share that each swap holds; `unfamiliar`, the error of the world model in the
    failed episodes over that on `held_out`, episodes of the behaviour policy; `cause`, that of
    `name_cause`, or None without failures.
    """
    failed = np.flatnonzero(~outcome.held)[:failures]
    if not len(failed):
        return {"failures": 0, "rescued": {}, "cause": None}
    episodes = [manifest.episodes[index] for index in failed]
    again = replace(manifest, episodes=episodes, seeds=[manifest.seeds[i] + 1 for i in failed])
    world, jepa, policies = setup.world, setup.checkpoint.networks.jepa, swapped_policies(setup)
    steps = len(policies) * world.task.budget_steps
    with console.progress_bar(steps, "attribution", unit="step") as bar:
        rates = {
            name: rate_of(run_episodes(world, it, again, bar.update).held)
            for name, it in policies.items()
        }
    states = outcome.states[failed, :: world.task.frame_skip]
    actions = outcome.actions[failed, :: world.task.frame_skip][:, : states.shape[1] - 1]
    embeddings = encode_states(jepa, world, states)
    unit = torch.from_numpy(world.to_unit(actions)).to(embeddings)
    unfamiliar = _step_error(jepa, embeddings, unit)
    unfamiliar /= _step_error(jepa, held_out.embeddings, held_out.actions)
    return {
        "failures": len(failed),
        "rescued": {name: asdict(rate) for name, rate in rates.items()},
        "unfamiliar": unfamiliar,
        "cause": name_cause({name: rate.rate for name, rate in rates.items()}, unfamiliar),
    }


def name_cause(rescued: dict[str, float], unfamiliar: float) -> str:
    """Return the part that causes the failures, from the share of them that each swap holds.

    It is `luck` if other random numbers alone rescue at least half of what the oracle does.
    Otherwise it is the single swap that rescues most, if it closes at least half of the gap between
    luck and the oracle: `search`, `cost` or `dynamics`, or `data` for dynamics that are wrong only
    in unfamiliar states. If no single swap does, but true dynamics with a true cost do, it is the
    better of these two; if they do not either, it is the `representation`, through which they still
    see. Where the oracle fails, only `search` is left.
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
    return "data" if best == "dynamics" and unfamiliar > UNFAMILIAR else best


@torch.no_grad()
def _step_error(jepa: JEPA, embeddings: Tensor, actions: Tensor) -> float:
    return open_loop_error(jepa, embeddings, actions, horizon=1)[0][0]
