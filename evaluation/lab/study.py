"""What `mujepa evaluate --full` adds: sweeps, world-model diagnostics, failure attribution."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mujepa.envs.world import World
from mujepa.evaluation.held_out import Episodes, rollout_episodes
from mujepa.evaluation.lab.attribution import attribute
from mujepa.evaluation.lab.expectation import violate_expectations
from mujepa.evaluation.lab.sweeps import (
    far_goals,
    quarters,
    replanning_periods,
    run_conditions,
    summarise,
    varied_factors,
)
from mujepa.evaluation.lab.world_model import open_loop, rank_candidates, representation
from mujepa.evaluation.loop import Outcome, run_episodes, split
from mujepa.evaluation.manifest import Manifest
from mujepa.evaluation.policies import AgentPolicy, RandomPolicy
from mujepa.evaluation.protocol import lewm_manifest, lewm_task, solved_share
from mujepa.evaluation.runner import Setup
from mujepa.evaluation.statistics import paired
from mujepa.runtime import console
from mujepa.runtime.seeds import Stream, stream

SWEEP_EPISODES, FAILURES = 50, 5
"""Episodes of each condition, and failed episodes that are repeated."""
HELD_OUT = 240, 40
"""Episodes of the behaviour policy for world-model diagnostics, and their model steps."""
USUAL_EPISODES = 96
"""Episodes that tell the usual error of the world model."""
VIDEOS = 100


@dataclass(frozen=True)
class Study:
    """Diagnostics of an agent after its evaluation, in a world that does not vary."""

    setup: Setup
    manifest: Manifest
    outcomes: dict[str, Outcome]  # by policy; `agent` is one of them

    def run(self) -> dict[str, Any]:
        """Return the results by part, as JSON holds them."""
        return {
            "paired": self._paired(),
            **self._world_model(),
            **self._sweeps(),
            "lewm": self._published_protocol(),
            "attribution": self._attribution(),
        }

    def _paired(self) -> dict[str, Any]:
        held = {name: outcome.held for name, outcome in self.outcomes.items()}
        agent = held.pop("agent")
        return {
            name: {"episodes": len(other), **asdict(paired(agent[: len(other)], other))}
            for name, other in held.items()
        }

    def _world_model(self) -> dict[str, Any]:
        setup, world, seed = self.setup, self.setup.world, self.setup.config.seed
        networks = setup.checkpoint.networks
        with console.progress_bar(4, "world model", unit="part") as bar:
            data, found = self._held_out(*HELD_OUT), {}
            for name, measure in (
                ("open_loop", lambda: open_loop(networks, data)),
                ("representation", lambda: representation(networks, world, data)),
                ("ranking", lambda: rank_candidates(setup.agent, world, self.manifest.episodes)),
                ("expectation", lambda: violate_expectations(world, networks.jepa, VIDEOS, seed)),
            ):
                found[name] = measure()
                bar.update()
        return found

    def _sweeps(self) -> dict[str, Any]:
        setup, usual = self.setup, self.outcomes["agent"].held
        episodes = min(SWEEP_EPISODES, setup.config.episodes)
        sweeps = {
            "distance": far_goals(setup, episodes),
            "replan": replanning_periods(setup, self.manifest.first(episodes)),
            "factors": varied_factors(setup, episodes),
        }
        conditions = [condition for sweep in sweeps.values() for condition in sweep]
        outcomes = iter(run_conditions(conditions, setup.agent.device.type))
        found = {name: [next(outcomes) for _ in sweep] for name, sweep in sweeps.items()}
        return {
            "distance": summarise(sweeps["distance"], found["distance"])
            or quarters(setup.world, self.manifest, usual),
            "replan": summarise(sweeps["replan"], found["replan"]),
            "factors": summarise(sweeps["factors"], found["factors"], usual[:episodes]),
        }

    def _published_protocol(self) -> dict[str, Any]:
        world = World(lewm_task(self.setup.world.task), self.setup.world.image_size, threads=2)
        manifest = lewm_manifest(world, len(self.manifest.episodes), self.setup.config.seed)
        policies = {"agent": AgentPolicy(self.setup.agent), "random": RandomPolicy(world)}
        found: dict[str, Any] = {"already_solved": asdict(solved_share(world, manifest))}
        steps = len(policies) * world.task.budget_steps * len(split(manifest))
        with console.progress_bar(steps, "published protocol", unit="step") as bar:
            for name, policy in policies.items():
                outcome = run_episodes(world, policy, manifest, bar.update)
                found[name] = asdict(outcome.summary())
        return found

    def _attribution(self) -> dict[str, Any] | None:
        """Return None where the simulator is too slow."""
        task = self.setup.world.task
        if task.python_stepped:
            return None
        held_out = self._held_out(USUAL_EPISODES, max(2, task.budget_steps // task.frame_skip))
        return attribute(self.setup, self.manifest, self.outcomes["agent"], held_out, FAILURES)

    def _held_out(self, episodes: int, steps: int) -> Episodes:
        jepa, world = self.setup.checkpoint.networks.jepa, self.setup.world
        streams = [stream(self.setup.config.seed, Stream.LAB, index) for index in range(episodes)]
        return rollout_episodes(jepa, world, streams, steps)
