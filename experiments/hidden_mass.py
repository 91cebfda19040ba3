"""Hidden mass: does an agent infer by acting what cannot be seen, and use it?

    python experiments/hidden_mass.py            # docs/experiments/hidden-mass.md
    python experiments/hidden_mass.py --smoke

A pusher strikes a puck into a part of a lane where it cannot follow (experiments/worlds/lane.py).
Pucks look the same, but weigh 0.25 to 4 kg; in a second world, the friction of the ground is
hidden. World models with a history of many, two and one frames learn from the same data and plan.
Probes read the hidden factor from the history of the first model.

Letters: E episodes, T model steps, N windows, I inputs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from experiment import (
    Estimate,
    Experiment,
    ExperimentConfig,
    Finding,
    Verdict,
    as_json,
    map_parts,
    over_seeds,
    train_logged,
)
from matplotlib.figure import Figure

from mujepa.agent.checkpoint import load_checkpoint
from mujepa.envs.registry import find_task
from mujepa.envs.variation import read_variation
from mujepa.envs.world import World
from mujepa.evaluation.held_out import rollout_episodes
from mujepa.evaluation.lab.world_model import fit_perceptron
from mujepa.evaluation.loop import run_episodes
from mujepa.evaluation.manifest import Manifest, make_manifest
from mujepa.evaluation.policies import (
    AgentPolicy,
    Observation,
    OraclePolicy,
    OracleState,
    Policy,
    RandomPolicy,
    ZeroPolicy,
)
from mujepa.evaluation.statistics import paired, success_rate
from mujepa.planners import CostFn, PlannerConfig, make_planner
from mujepa.rollouts.collection import CollectConfig, collect
from mujepa.runtime.command import read
from mujepa.runtime.files import make_folder, read_json, write_json
from mujepa.runtime.settings import settings
from mujepa.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from torch import Tensor

    from mujepa.agent.jepa import JEPA
    from mujepa.envs.world import Variants

EXPERIMENT = Experiment(
    "hidden-mass",
    "An agent infers hidden properties by acting: mass and friction can be decoded from its "
    "memory after contact, not before, and planning with memory beats planning from one "
    "frame.",
)
TASK = f"{Path(__file__).parent / 'worlds' / 'lane.py'}:Lane"
WORLDS = {"mass": "mass=0.25:4:log", "friction": "friction=0.4:2.5:log"}
"""The hidden factor of each world, as a value of `--vary`."""
HISTORY = 6
"""Frames of the agent with a memory."""
HISTORIES = {"mass": (HISTORY, 2, 1), "friction": (HISTORY, 1)}
RIVALS = ("against 2", "against 1")
"""Names of the paired tests of the agent with a memory."""
COST = "state(x).last + 0.1*state(x) + 10*uncertainty"
"""Final distance of the puck; a little of its mean distance, so that the agent does not wait; and
the disagreement of an ensemble, so that the search does not exploit errors of the model."""
EARLY = 0.1
PLANNER = PlannerConfig(horizon=12, samples=64, iterations=3, min_std=0.02)
EDGES = (0.0, 0.1, 0.2, 0.4, 0.6, 1.01)
"""Bins of the seconds of contact (mass) or sliding (friction) within the history."""
ENOUGH = 0.4
"""Seconds after which, by the claim, mass and friction can be read."""
READABLE, UNREADABLE, SIGNIFICANT = 0.8, 0.1, 0.05
UNMOVED = 1e-4
"""A puck that has moved more was touched [m]."""
STREAM = 11
"""Second word of the random streams of the episodes for the probes."""
RESAMPLES = 1000


@settings
class HiddenMassConfig(ExperimentConfig):
    """Test whether an agent infers a hidden mass or friction by acting."""


@dataclass(frozen=True)
class Size:
    """Sizes of data, training and evaluation.

    Attributes:
        episodes: episodes of training data.
        updates: updates of each world model.
        predictor: further updates of its predictor alone, on frozen embeddings.
        ensemble: updates of the ensemble.
        batch: windows of each update.
        rollout: model steps predicted open loop in training.
        evaluated: episodes that agents are evaluated on.
        oracle: of these, episodes for the simulator as the model.
        probed: episodes for probes, two thirds of them to fit.
        perceptron: updates of the perceptron probe.
    """

    episodes: int = 9000
    updates: int = 1500
    predictor: int = 4000
    ensemble: int = 1000
    batch: int = 64
    rollout: int = 8
    evaluated: int = 200
    oracle: int = 60
    probed: int = 4500
    perceptron: int = 2000


SMOKE = Size(
    episodes=24, updates=4, predictor=2, ensemble=4, batch=8, rollout=2, evaluated=3, oracle=1,
    probed=24, perceptron=20,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One world model, or the baselines, in one world with one seed; runs in its own process.

    Attributes:
        world: one of `WORLDS`.
        seed: seed of data, training and episodes.
        history: frames of the world model; 0: the baselines.
        size: sizes.
        folder: folder of data, trainings and results.
        oracle: with a history of 0, also run the simulator as the model.
    """

    world: str
    seed: int
    history: int
    size: Size
    folder: Path
    oracle: bool = False

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.world}-seed{self.seed}-" + (f"{self.history}" if self.history else "bounds")

    @property
    def data(self) -> Path:
        """Folder of its dataset."""
        return self.folder / f"data-{self.world}-seed{self.seed}"

    @property
    def vary(self) -> str:
        """The hidden factor."""
        return WORLDS[self.world]

    def make_world(self) -> World:
        """Return the simulator with the hidden factor."""
        return World(find_task(TASK), variation=read_variation(self.vary))


class SimulatorPolicy(OraclePolicy):
    """The same planner and cost with the simulator as the model.

    Args:
        world: the simulator.
        told: whether it knows the hidden factor of the episode; otherwise it assumes the nominal
            value.
    """

    def __init__(self, world: World, *, told: bool) -> None:
        super().__init__(world, make_planner(PLANNER))
        self.told = told

    def reset(
        self, observation: Observation, info: dict[str, Any], seeds: Sequence[int]
    ) -> OracleState:
        """Start the episodes."""
        if not self.told:
            info = {name: value for name, value in info.items() if name != "variation"}
        return super().reset(observation, info, seeds)

    def cost_fn(
        self, states: NDArray[np.float64], goals: NDArray[np.float64], variants: Variants = None
    ) -> CostFn:
        """Return the final distance and a little of the mean distance."""

        def cost(actions: Tensor) -> Tensor:
            batch, candidates, horizon, size = actions.shape
            controls = self.world.from_unit(actions.reshape(-1, horizon, size).numpy())
            starts = np.repeat(states, candidates, axis=0)
            worlds = variants and [one for one in variants for _ in range(candidates)]
            _, achieved = self.world.rollout(starts, controls, self.world.task.frame_skip, worlds)
            away = self.world.task.distance(achieved, np.repeat(goals, candidates, axis=0)[:, None])
            total = away[:, -1] + EARLY * away.mean(axis=1)
            return torch.from_numpy(total.reshape(batch, candidates)).float()

        return cost


def measure(config: HiddenMassConfig) -> Finding:
    """Run the experiment, or continue it."""
    size = SMOKE if config.smoke else Size()
    folder = config.work / ("hidden-mass-smoke" if config.smoke else "hidden-mass")
    make_folder(folder)
    few = 1 if config.smoke else None
    worlds, seeds = list(WORLDS)[:few], config.seeds[:few]
    parts = [
        Part(world, seed, history, size, folder, oracle=seed == seeds[0])
        for seed in seeds
        for world in worlds
        for history in (*HISTORIES[world], 0)
    ]
    map_parts(config, collect_data, [(part,) for part in parts if not part.history])
    results = map_parts(config, run_part, [(part,) for part in parts])
    found = {
        world: summarise([results[i] for i, part in enumerate(parts) if part.world == world])
        for world in worlds
    }
    return conclude(found)


def collect_data(part: Part) -> None:
    """Collect the data of a world and a seed."""
    episodes, seed = part.size.episodes, part.seed
    collect(CollectConfig(TASK, part.data, episodes, workers=1, seed=seed, vary=(part.vary,)))


def run_part(part: Part) -> dict[str, Any]:
    """Train and evaluate a part, or read its results."""
    path = part.folder / f"{part.name}.json"
    asked = {"world": part.vary, "seed": part.seed, "history": part.history, **asdict(part.size)}
    if path.exists():
        found = read_json(path, "delete it")
        if found["asked"] == asked:
            return found
    torch.set_num_threads(1)
    world = part.make_world()
    manifest = make_manifest(world, part.size.evaluated, part.seed)
    if part.history:
        checkpoint = load_checkpoint(train(part))
        agent = AgentPolicy(checkpoint.agent(PLANNER, COST, "planner"))
        found: dict[str, Any] = {"held": {"agent": act(world, agent, manifest)}}
        if part.history == HISTORY:
            found["probes"] = probe(checkpoint.networks.jepa, world, part)
    else:
        baselines = {"random": RandomPolicy(world), "zero": ZeroPolicy(world)}
        found = {"held": {name: act(world, it, manifest) for name, it in baselines.items()}}
        if part.oracle:
            few = manifest.first(part.size.oracle)
            for name, told in (("told", True), ("untold", False)):
                found["held"][name] = act(world, SimulatorPolicy(world, told=told), few)
    found["asked"] = asked
    write_json(path, found)
    return found


def train(part: Part) -> Path:
    """Train the world model of a part; return the folder of the run."""
    out, size = part.folder / part.name, part.size
    flags: dict[str, object] = {
        "--out": out, "--data": part.data, "--episodes": size.episodes, "--seed": part.seed,
        "--updates": size.updates, "--batch": size.batch,
        "--jepa.predictor.history": part.history, "--checkpoint-every": size.updates,
        "--predictor-updates": size.predictor, "--ensemble-updates": size.ensemble,
        "--critic-updates": 1, "--actor-updates": 1,
        "--cost": COST, "--mode": "planner", "--planner.horizon": 1,  # evaluated with PLANNER
        "--threads": 1, "--vary": part.vary,
    }  # fmt: skip
    words = [str(word) for flag in flags.items() for word in flag]
    config = replace(read(TrainConfig, [TASK, *words, "--resume"]), rollout=size.rollout)
    train_logged(config, part.folder / f"{part.name}.log")
    return out


def act(world: World, policy: Policy[Any], manifest: Manifest) -> list[bool]:
    """Return the success of a policy in each episode."""
    return run_episodes(world, policy, manifest).held.tolist()


def probe(jepa: JEPA, world: World, part: Part) -> dict[str, Any]:
    """Return how well the logarithm of the hidden factor can be read from the history.

    Inputs are the last embedding, the changes between the embeddings of the history, and the
    actions. Probes are fitted to two thirds of held-out episodes of the behaviour policy and
    evaluated on the rest.

    Returns:
        For `ridge` and `perceptron`: R2 with its interval over episodes, `before` the first
        contact, `after` enough contact, and by bin of its duration.
    """
    words = [[part.seed, STREAM, index] for index in range(part.size.probed)]
    steps = world.task.episode_steps
    assert steps is not None
    data = rollout_episodes(jepa, world, [np.random.default_rng(word) for word in words], steps)
    draws = [world.draw(np.random.default_rng(word)) for word in words]
    values = np.array([draw.values[part.world] for draw in draws if draw])
    inputs = histories(data.embeddings, data.actions, jepa.history)
    starts, variants = data.states[:, 0], world.variants(draws)
    contact, evidence = (
        durations(world, starts, data.actions, variants, name) for name in ("mass", part.world)
    )
    recent = window_sums(evidence, jepa.history - 1)
    puck = data.states[..., 1]  # a strike may be shorter than the interval of sampling contact
    moved = np.maximum.accumulate(np.abs(puck - puck[:, :1])[:, 1:], axis=1)
    untouched = (np.cumsum(contact, axis=1) == 0) & (moved < UNMOVED)
    target = torch.from_numpy(np.log2(values).astype(np.float32))[:, None].expand(-1, steps)
    fitted = 2 * len(inputs) // 3
    centre, scale = inputs[:fitted].mean(dim=(0, 1)), inputs[:fitted].std(dim=(0, 1)) + 1e-6
    inputs = (inputs - centre) / scale
    fit = inputs[:fitted].flatten(0, 1), target[:fitted].reshape(-1, 1)
    readers = {"ridge": fit_ridge(*fit), "perceptron": fit_perceptron(*fit, part.size.perceptron)}
    bins = {"before": untouched, "after": ~untouched & (recent >= ENOUGH - 1e-9)}
    for low, high in itertools.pairwise(EDGES):
        bins[f"{low:g}"] = ~untouched & (recent >= low - 1e-9) & (recent < high - 1e-9)
    true = target[fitted:].numpy()
    found: dict[str, Any] = {}
    for name, reader in readers.items():
        read = reader(inputs[fitted:]).squeeze(-1).numpy()
        found[name] = {key: r2(read, true, chosen[fitted:]) for key, chosen in bins.items()}
    found["windows"] = {key: int(chosen[fitted:].sum()) for key, chosen in bins.items()}
    return found


def histories(embeddings: Tensor, actions: Tensor, history: int) -> Tensor:
    """Return the agent's history after each step, (E, T, I), at rest before the first.

    It holds the last embedding, the changes from each to the next, and the actions between them.
    """
    before = embeddings[:, :1].expand(-1, history - 1, -1)
    frames = torch.cat([before, embeddings], dim=1).unfold(1, history, 1).transpose(2, 3)[:, 1:]
    idle = actions.new_zeros(len(actions), history - 1, actions.shape[2])
    taken = torch.cat([idle, actions], dim=1).unfold(1, history - 1, 1)[:, 1:]
    changes = frames.diff(dim=2).flatten(2)
    return torch.cat([frames[:, :, -1], changes, taken.flatten(2)], dim=2)


def durations(
    world: World, starts: NDArray[np.float64], actions: Tensor, variants: Variants, name: str
) -> NDArray[np.float64]:
    """Return the seconds of contact (mass) or sliding (friction) in each model step, (E, T)."""
    skip = world.task.frame_skip
    controls = np.repeat(world.from_unit(actions.numpy()), skip, axis=1)
    states, _ = world.rollout(starts, controls, 1, variants)
    model, positions = world.model, states[..., 1 : 1 + world.model.nq]
    if name == "mass":
        gap = positions[..., 0] - positions[..., 2]
        there = gap <= model.geom("back").size[0] + model.geom("front").size[0] + 1e-3
    else:
        there = np.abs(states[..., 1 + model.nq]) > 0.01
    return there.reshape(len(states), -1, skip).sum(axis=2) * world.step_seconds


def window_sums(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return the sum over the last `steps` steps at each step, (E, T)."""
    total = np.cumsum(np.pad(values, ((0, 0), (steps, 0))), axis=1)
    return total[:, steps:] - total[:, :-steps]


def fit_ridge(inputs: Tensor, targets: Tensor) -> torch.nn.Module:
    """Return the linear probe of standardised inputs (N, I), with an L2 penalty of 0.01."""
    centre = targets.mean(dim=0)
    gram = inputs.T @ inputs + 0.01 * len(inputs) * torch.eye(inputs.shape[1])
    linear = torch.nn.Linear(inputs.shape[1], 1).requires_grad_(requires_grad=False)
    linear.weight.copy_(torch.linalg.solve(gram, inputs.T @ (targets - centre)).T)
    linear.bias.copy_(centre)
    return linear


def r2(
    read: NDArray[np.float32], true: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> list[float] | None:
    """Return the explained share of variance with its interval, a bootstrap over episodes (rows).

    The variance is that over all episodes, because chosen windows may contain mostly heavy pucks.
    None if the chosen windows belong to fewer than ten episodes.
    """
    rows = np.flatnonzero(chosen.any(axis=1))
    if len(rows) < 10:
        return None
    count, error = chosen.sum(axis=1)[rows], ((read - true) ** 2 * chosen).sum(axis=1)[rows]
    drawn = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    drawn[0] = np.arange(len(rows))
    share = 1 - error[drawn].sum(axis=1) / count[drawn].sum(axis=1) / true[:, 0].var()
    return [float(share[0]), *(float(it) for it in np.quantile(share, [0.025, 0.975]))]


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of one world from those of its parts."""
    by_history: dict[int, list[NDArray[np.bool_]]] = {}
    for result in results:
        if result["asked"]["history"]:
            held = np.array(result["held"]["agent"])
            by_history.setdefault(result["asked"]["history"], []).append(held)
    bounds = [r["held"] for r in results if not r["asked"]["history"]]
    probes = [r["probes"] for r in results if "probes" in r]
    rates = {f"history {history}": shares(runs) for history, runs in by_history.items()}
    for name in ("random", "zero", "told", "untold"):
        rates[name] = shares([np.array(held[name]) for held in bounds if name in held])
    many = by_history[HISTORY]
    tests = {
        f"against {history}": [
            asdict(paired(one, other)) for one, other in zip(many, runs, strict=True)
        ]
        for history, runs in by_history.items()
        if history != HISTORY
    }
    one = next(held for held in bounds if "told" in held)
    tests["told against untold"] = [asdict(paired(np.array(one["told"]), np.array(one["untold"])))]
    reads = {
        name: {
            key: over_seeds([p[name][key][0] for p in probes])
            for key in probes[0][name]
            if all(p[name][key] for p in probes)
        }
        for name in ("ridge", "perceptron")
    }
    return {"rates": rates, "tests": tests, "reads": reads, "probes": probes}


def shares(runs: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    """Return the success rate with its interval over all episodes, and that of each seed."""
    joined = np.concatenate(runs)
    rate = success_rate(int(joined.sum()), len(joined))
    return asdict(rate) | {"episodes": len(joined), "seeds": [float(run.mean()) for run in runs]}


def conclude(found: dict[str, dict[str, Any]]) -> Finding:
    """Apply the criteria of docs/experiments/hidden-mass.md."""
    decided, sentences, columns = [], [], []
    for world, figures in found.items():
        before, after = (figures["reads"]["perceptron"].get(key) for key in ("before", "after"))
        rates = {name: f"{rate['rate']:.2f}" for name, rate in figures["rates"].items()}
        tests = {name: [f"{it['p_value']:.1g}" for it in figures["tests"][name]] for name in RIVALS
                 if name in figures["tests"]}  # fmt: skip
        against = figures["tests"]["against 1"]
        decided += [
            bool(after and after.mean >= READABLE),
            bool(before and before.mean <= UNREADABLE),
            all(it["difference"] > 0 and it["p_value"] < SIGNIFICANT for it in against),
        ]
        columns.append(
            [
                world,
                *(before or "-", after or "-"),
                *(
                    shown(figures["rates"].get(f"history {history}"))
                    for history in HISTORIES["mass"]
                ),
                *(", ".join(tests.get(name, "-")) for name in RIVALS),
                *(shown(figures["rates"][name]) for name in ("told", "untold", "random")),
            ]
        )
        sentences.append(
            f"{world}: R2 {number(before)} before and {number(after)} after contact, success "
            f"{rates[f'history {HISTORY}']} with {HISTORY} frames and {rates['history 1']} with one"
        )
    heads = [
        "hidden", "R2 before contact", f"R2 after {ENOUGH:g} s",
        *(f"success, {history} frame{'s' * (history > 1)}" for history in HISTORIES["mass"]),
        *(f"p, {name} frame{'s' * (name == 'against 2')}, by seed" for name in RIVALS),
        "success of the oracle, informed", "success of the oracle, not informed", "random actions",
    ]  # fmt: skip
    table = [list(cells) for cells in zip(heads, *columns, strict=True)]
    verdict: Verdict = (
        "holds" if all(decided) else "holds in part" if any(decided[::3] + decided[2::3])
        else "fails"
    )  # fmt: skip
    figures = {
        world: {**it, "reads": {name: as_json(read) for name, read in it["reads"].items()}}
        for world, it in found.items()
    }
    return Finding(verdict, "; ".join(sentences) + ".", figures, table, draw(found))


def shown(rate: dict[str, Any] | None) -> str:
    """Return a success rate with its interval as text."""
    return "-" if rate is None else f"{rate['rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]"


def number(figures: Estimate | None) -> str:
    """Return a mean as text."""
    return "-" if figures is None else f"{figures.mean:.2f}"


def draw(found: dict[str, dict[str, Any]]) -> Figure:
    """Draw R2 by duration of contact, and success."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(len(found), 2, squeeze=False)
    for row, (world, figures) in zip(axes, found.items(), strict=True):
        draw_reads(row[0], world, figures)
        draw_rates(row[1], world, figures)
    return figure


def draw_reads(axes: Axes, world: str, figures: dict[str, Any]) -> None:
    """Draw R2 by seconds of contact or sliding."""
    keys = ["before", *(f"{low:g}" for low in EDGES[:-1])]
    labels = ["never", *(f"{a:g}-{min(b, 1):g}" for a, b in itertools.pairwise(EDGES))]
    for name, colour in (("perceptron", "tab:blue"), ("ridge", "tab:gray")):
        reads = figures["reads"][name]
        there = [index for index, key in enumerate(keys) if key in reads]
        shown = [reads[keys[index]] for index in there]
        axes.plot(there, [it.mean for it in shown], "o-", color=colour, label=name)
        axes.fill_between(
            there, [it.low for it in shown], [it.high for it in shown], color=colour, alpha=0.2
        )
    axes.axhline(READABLE, color="black", lw=0.8, ls=":")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(-0.3, 1)
    axes.set_xlabel(f"{'contact' if world == 'mass' else 'sliding'} within {HISTORY} frames [s]")
    axes.set_ylabel(f"R2 of log {world}, held out")
    axes.legend(loc="lower right")


def draw_rates(axes: Axes, world: str, figures: dict[str, Any]) -> None:
    """Draw the success rate with its interval over episodes, and that of each seed."""
    names = {
        "told": "simulator\ntold", "untold": "simulator\nnot told",
        **{f"history {it}": f"{it} frame{'s' * (it > 1)}" for it in HISTORIES[world]},
        "random": "random",
    }  # fmt: skip
    for place, name in enumerate(names):
        rate = figures["rates"][name]
        colour = "tab:blue" if name.startswith("history") else "tab:gray"
        axes.bar(place, rate["rate"], color=colour, alpha=0.5)
        axes.vlines(place, rate["low"], rate["high"], color="black", lw=1.2)
        axes.plot([place] * len(rate["seeds"]), rate["seeds"], "o", color="black", ms=3)
    axes.set_xticks(range(len(names)), list(names.values()), fontsize=8)
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"success, {world} hidden")


if __name__ == "__main__":
    sys.exit(EXPERIMENT.run(measure, HiddenMassConfig))
