"""The lab: what an agent knows and where it fails, one part after the other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mujepa.envs.world import World
from mujepa.evaluation.lab.attribution import attribute, swaps
from mujepa.evaluation.lab.expectation import film_events, judge_surprise
from mujepa.evaluation.lab.ranking import rank_bank
from mujepa.evaluation.lab.sweeps import (
    FARTHER,
    factors,
    farther,
    periods,
    quarters,
    run_all,
    summarise,
)
from mujepa.evaluation.lab.world_model import open_loop, representation
from mujepa.evaluation.loop import BATCH, Outcome, run_episodes
from mujepa.evaluation.policies import AgentPolicy, RandomPolicy
from mujepa.evaluation.protocol import lewm_manifest, lewm_task, solved_share
from mujepa.evaluation.sampling import rollout_episodes
from mujepa.evaluation.statistics import paired
from mujepa.runtime import console

if TYPE_CHECKING:
    from mujepa.evaluation.lab.subject import Subject
    from mujepa.evaluation.manifest import Manifest
    from mujepa.evaluation.sampling import Episodes

HELD_OUT_EPISODES, HELD_OUT_STEPS = 240, 40
USUAL_EPISODES = 96
VIDEOS = 100
STREAM = 5
"""Second word of the random streams of held-out experience; nobody else has it."""


@dataclass(frozen=True)
class Lab:
    """Looks into an agent whose episodes were run.

    Attributes:
        subject: the agent.
        world: where the episodes were run; it does not vary.
        manifest: the episodes.
        outcomes: what came of them, by who acted; `agent` among them.
        seed: of all that is drawn.
        sweep_episodes: episodes of each condition that is swept over.
        failures: failed episodes that are tried again with true parts.
    """

    subject: Subject
    world: World
    manifest: Manifest
    outcomes: dict[str, Outcome]
    seed: int
    sweep_episodes: int
    failures: int

    def run(self) -> dict[str, Any]:
        """Return what each part found, by its name, as JSON holds it."""
        return {
            "paired": self._paired(),
            **self._knowledge(),
            **self._sweeps(),
            "lewm": self._published(),
            "attribution": self._attribution(),
        }

    def _paired(self) -> dict[str, Any]:
        """Compare the agent with all others, on the episodes that both ran."""
        held = {name: outcome.held for name, outcome in self.outcomes.items()}
        agent = held.pop("agent")
        return {
            name: {"episodes": len(other)} | asdict(paired(agent[: len(other)], other))
            for name, other in held.items()
        }

    def _knowledge(self) -> dict[str, Any]:
        """Judge world model, cost and surprise on experience that training never saw."""
        networks, world = self.subject.checkpoint.networks, self.world
        agent = self.subject.agent()
        found: dict[str, Any] = {}
        with console.progress_bar(4, "world model", unit="part") as bar:
            lived = self._fresh(HELD_OUT_EPISODES, HELD_OUT_STEPS)
            found["open_loop"] = open_loop(networks, lived)
            bar.update()
            found["representation"] = representation(networks, world, lived)
            bar.update()
            found["ranking"] = rank_bank(agent, world, self.manifest.episodes)
            bar.update()
            events = film_events(world, networks.jepa, VIDEOS, self.seed)
            found["expectation"] = judge_surprise(events)
            bar.update()
        return found

    def _sweeps(self) -> dict[str, Any]:
        """Change the episodes or the agent, one thing at a time."""
        world, episodes, horizon = self.world, self.sweep_episodes, self.subject.planner.horizon
        goal_steps = getattr(world.task, "goal_steps", None)
        ahead = [goal_steps * times for times in FARTHER] if goal_steps else []
        usual = self.outcomes["agent"]
        runs = {
            "distance": farther(world, ahead, episodes, self.seed),
            "replan": []
            if self.subject.reactive
            else periods(world.task, self.manifest.first(episodes), horizon),
            "factors": factors(world, episodes, self.seed),
        }
        outcomes = iter(run_all(self.subject, [run for part in runs.values() for run in part]))
        found = {
            name: summarise(
                part,
                [next(outcomes) for _ in part],
                usual.held[:episodes] if name == "factors" else None,
            )
            for name, part in runs.items()
        }
        return found if ahead else found | {"distance": quarters(world, self.manifest, usual)}

    def _published(self) -> dict[str, Any]:
        """Judge the agent by the protocol of published tables, beside random actions."""
        task = lewm_task(self.world.task)
        world = World(task, self.world.image_size, threads=2)
        manifest = lewm_manifest(world, len(self.manifest.episodes), self.seed)
        agent = self.subject.agent()
        policies = {"agent": AgentPolicy(agent), "random": RandomPolicy(world)}
        found: dict[str, Any] = {"already_solved": asdict(solved_share(world, manifest))}
        batches = -(-len(manifest.episodes) // BATCH)
        steps = len(policies) * task.budget_steps * batches
        with console.progress_bar(steps, "published protocol", unit="step") as bar:
            for name, policy in policies.items():
                outcome = run_episodes(task, world.image_size, policy, manifest, bar.update)
                found[name] = asdict(outcome.summary())
        return found

    def _attribution(self) -> dict[str, Any] | None:
        """Try failures again with true parts; None where the world is too slow for it."""
        task, jepa = self.world.task, self.subject.checkpoint.networks.jepa
        if task.python_stepped or not self.failures:
            return None
        agent = self.subject.agent()
        policies = swaps(self.subject.checkpoint, self.world, agent, self.subject.planner)
        usual = self._fresh(USUAL_EPISODES, max(2, task.budget_steps // task.frame_skip))
        with console.progress_bar(
            len(policies) * task.budget_steps, "attribution", unit="step"
        ) as bar:
            return attribute(
                policies, jepa, self.world, self.manifest, self.outcomes["agent"],
                usual, self.failures, bar.update,
            )  # fmt: skip

    def _fresh(self, episodes: int, steps: int) -> Episodes:
        """Return experience that training never saw."""
        streams = [np.random.default_rng([self.seed, STREAM, index]) for index in range(episodes)]
        return rollout_episodes(self.subject.checkpoint.networks.jepa, self.world, streams, steps)
