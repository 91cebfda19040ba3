"""Planners: bounds, optima, warm starts, reproducibility, and costs that are not numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from mujepa.planners import (
    CEM,
    ICEM,
    MPPI,
    PLANNERS,
    Bounds,
    GradientDescent,
    PlannerConfig,
    RandomShooting,
    SamplingState,
    make_planner,
)
from mujepa.planners.noise import correlated_noise
from mujepa.runtime.errors import UserError

LOW, HIGH = torch.tensor([-0.2, 1.0, -3.0]), torch.tensor([0.1, 4.0, -2.5])
LOPSIDED = Bounds(LOW, HIGH)
every_planner = pytest.mark.parametrize("kind", list(PLANNERS.values()))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def targets(batch: int, horizon: int = 4, seed: int = 0) -> torch.Tensor:
    """Sequences (B, H, A) well inside the lopsided bounds."""
    unit = torch.rand(batch, horizon, 3, generator=torch.Generator().manual_seed(seed))
    return LOW + (0.2 + 0.6 * unit) * (HIGH - LOW)


def distance_to(target: torch.Tensor):
    """Return the cost whose optimum is `target` (B, H, A), in half-widths of the bounds."""
    return lambda actions: (
        ((actions - target[:, None]) / (HIGH - LOW) * 2).square().mean(dim=(-1, -2))
    )


def plan(planner, cost, *seeds, state=None, bounds=LOPSIDED):
    state = state or planner.start(len(seeds), bounds)
    return planner.plan(cost, state, bounds, generators(*seeds))


def assert_same(one, other) -> None:
    for left, right in (
        (one.actions, other.actions),
        (one.cost, other.cost),
        (one.sampling.mean, other.sampling.mean),
        (one.sampling.std, other.sampling.std),
    ):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def inside(actions: torch.Tensor) -> bool:
    return bool(((actions >= LOW) & (actions <= HIGH)).all())


# -------------------------------------------------------------------------------- bounds, optima


@every_planner
def test_nothing_outside_lopsided_bounds_is_tried_or_planned(kind):
    seen = []

    def cost(actions):
        seen.append(actions)
        return distance_to(targets(2) + 10)(actions)

    planner = kind(horizon=4, samples=64, iterations=4)
    outside = SamplingState(torch.full((2, 4, 3), 50.0), torch.full((2, 4, 3), 9.0))
    for state in (None, outside):
        result = plan(planner, cost, 0, 1, state=state)
        assert inside(result.actions)
        assert inside(result.sampling.mean)
    assert all(inside(actions) for actions in seen)


def test_cem_reaches_the_optimum_of_a_quadratic():
    target = targets(3)
    result = plan(
        CEM(horizon=4, samples=256, iterations=15, min_std=0.01), distance_to(target), 0, 1, 2
    )
    error = (result.actions - target).abs() / (HIGH - LOW)
    assert error.max() < 0.05


def test_cem_reaches_the_corner_when_the_optimum_is_outside_the_bounds():
    result = plan(CEM(horizon=4, iterations=12), lambda a: -(a / (HIGH - LOW)).sum(dim=(-1, -2)), 0)
    assert ((HIGH - result.actions) / (HIGH - LOW)).max() < 0.02


@every_planner
def test_a_plan_is_never_worse_than_what_was_proposed(kind):
    planner, target = kind(horizon=4, samples=16, iterations=3), targets(2)
    blind = planner.start(2, LOPSIDED)
    assert (plan(planner, distance_to(target), 0, 1, state=blind).cost > 0.001).all()
    near = (target + 0.01 * (HIGH - LOW))[:, None]
    result = plan(planner, distance_to(target), 0, 1, state=blind.add_candidates(near))
    assert (result.cost <= distance_to(target)(near)[:, 0]).all()
    again = planner.shift(result.sampling, LOPSIDED).add_candidates(near)
    assert plan(planner, distance_to(target), 2, 3, state=again).cost.max() <= 0.001


@every_planner
@pytest.mark.parametrize("samples", [1, 64])
def test_a_plan_is_never_worse_than_its_warm_start(kind, samples):
    planner = kind(horizon=4, samples=samples, iterations=3)
    for seed in range(5):
        start = SamplingState(targets(2, seed=seed + 1), planner.start(2, LOPSIDED).std)
        cost = distance_to(targets(2, seed=seed + 50))
        result = plan(planner, cost, seed, 99, state=start)
        assert (result.cost <= cost(start.mean[:, None])[:, 0]).all()


@every_planner
def test_a_warm_start_that_is_the_optimum_is_kept(kind):
    planner, best = kind(horizon=4, samples=32, iterations=3), targets(2)
    start = SamplingState(best, planner.start(2, LOPSIDED).std)
    result = plan(planner, distance_to(best), 0, 1, state=start)
    torch.testing.assert_close(result.actions, best, rtol=0, atol=0)


@every_planner
def test_the_reported_cost_is_the_cost_of_the_plan_and_the_lowest_of_the_trace(kind):
    planner, cost = kind(horizon=4, samples=32, iterations=5), distance_to(targets(3))
    result = plan(planner, cost, 0, 1, 2)
    torch.testing.assert_close(result.cost, cost(result.actions[:, None])[:, 0])
    assert result.trace.lowest.shape == result.trace.median.shape == (planner.rounds, 3)
    assert torch.equal(result.cost, result.trace.lowest.amin(dim=0))
    assert torch.equal(result.trace.costs.amin(dim=1), result.trace.lowest[-1])


# -------------------------------------------------------------------------------- reproducibility


@every_planner
def test_the_same_seed_gives_the_same_plan_and_another_seed_another(kind):
    planner, cost = kind(horizon=4, samples=32, iterations=3), distance_to(targets(1))
    corner = replace(planner.start(1, LOPSIDED), mean=HIGH.expand(1, 4, 3))  # a poor warm start
    one, again, other = (plan(planner, cost, seed, state=corner) for seed in (7, 7, 8))
    assert torch.equal(one.actions, again.actions)
    assert torch.equal(one.sampling.mean, again.sampling.mean)
    assert not torch.equal(one.actions, other.actions)


@every_planner
def test_a_batch_of_three_equals_three_single_plans(kind):
    planner, target = kind(horizon=4, samples=32, iterations=4), targets(3)
    together = plan(planner, distance_to(target), 4, 5, 6)
    for row in range(3):
        alone = plan(planner, distance_to(target[row : row + 1]), 4 + row)
        torch.testing.assert_close(together.actions[row], alone.actions[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.cost[row], alone.cost[0], rtol=1e-5, atol=1e-6)


@every_planner
@pytest.mark.parametrize("chunk", [3, 50])
def test_the_chunk_size_limits_the_calls_and_does_not_change_the_plan(kind, chunk):
    seen, cost = {False: [], True: []}, distance_to(targets(3))

    def counted(actions):
        seen[actions.requires_grad].append(actions.shape[0] * actions.shape[1])
        return cost(actions)

    settings = {"horizon": 4, "samples": 20, "iterations": 3}
    planner = kind(**settings, chunk=chunk)
    assert_same(plan(planner, counted, 0, 1, 2), plan(kind(**settings), cost, 0, 1, 2))
    assert max(seen[False] + seen[True]) <= chunk
    assert bool(seen[True]) == planner.needs_gradient
    if not planner.needs_gradient:
        assert sum(seen[False]) == 3 * sum(map(planner.population, range(planner.rounds)))


@every_planner
def test_a_shifted_search_is_the_rest_of_the_plan_with_its_last_action_held(kind):
    planner = kind(horizon=4, samples=8, iterations=1)
    state = plan(planner, distance_to(targets(2)), 0, 1).sampling
    for steps in (1, 3, 4, 9):
        shifted = planner.shift(state, LOPSIDED, steps)
        index = [min(step + steps, 3) for step in range(4)]
        assert torch.equal(shifted.mean, state.mean[:, index])
        assert torch.equal(shifted.std, planner.start(2, LOPSIDED).std)


# -------------------------------------------------------------------------------- awkward costs


@every_planner
def test_candidates_whose_cost_is_nan_are_never_chosen(kind):
    target = targets(2)

    def cost(actions):
        costs = distance_to(target)(actions)
        return torch.where(actions[..., 0, 1] > 2.0, torch.nan, costs)

    result = plan(kind(horizon=4, samples=64, iterations=4), cost, 0, 1)
    assert result.cost.isfinite().all()
    assert (result.actions[:, 0, 1] <= 2.0).all()
    assert result.sampling.mean.isfinite().all()
    assert not result.trace.lowest.isnan().any()


@every_planner
def test_without_a_single_finite_cost_the_warm_start_is_the_plan(kind):
    planner = kind(horizon=4, samples=16, iterations=3)
    start = SamplingState(targets(2), planner.start(2, LOPSIDED).std)
    result = plan(planner, lambda a: a.sum(dim=(2, 3)) * torch.nan, 0, 1, state=start)
    assert torch.equal(result.actions, start.mean)
    assert torch.equal(result.sampling.mean, start.mean)
    assert torch.equal(result.sampling.std, start.std)
    assert result.cost.isposinf().all()


@every_planner
def test_a_row_without_finite_costs_does_not_disturb_its_neighbour(kind):
    planner, target = kind(horizon=4, samples=32, iterations=3), targets(2)

    def broken(actions):
        costs = distance_to(target)(actions)
        costs[0] = torch.nan
        return costs

    alone = plan(planner, distance_to(target[1:]), 5)
    torch.testing.assert_close(plan(planner, broken, 4, 5).actions[1], alone.actions[0])


@every_planner
def test_a_horizon_of_one_is_planned(kind):
    target = targets(2, horizon=1)
    result = plan(kind(horizon=1, samples=128, iterations=5), distance_to(target), 0, 1)
    assert result.actions.shape == (2, 1, 3)
    assert (result.cost < 0.1).all()


@pytest.mark.parametrize("samples", [1, 3])
def test_cem_with_fewer_samples_than_elites_uses_them_all(samples):
    result = plan(CEM(horizon=4, samples=samples, elites=10), distance_to(targets(2)), 0, 1)
    assert inside(result.actions)
    assert (result.sampling.std > 0).all()


# -------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("mean", "std", "seeds"),
    [
        ((2, 5, 3), (2, 5, 3), 2), ((2, 4, 2), (2, 4, 2), 2), ((2, 4, 3), (2, 4, 3), 3),
        ((2, 4, 3), (2, 4, 1), 2),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(mean, std, seeds):
    state = SamplingState(torch.zeros(mean), torch.ones(std))
    with pytest.raises(ValueError, match="not fit"):
        plan(CEM(horizon=4, samples=8), distance_to(targets(2)), *range(seeds), state=state)


@pytest.mark.parametrize(
    "wrong",
    [lambda a: a[:, 0, 0, 0], lambda a: a[..., 0], lambda a: a[:, :1, 0, 0], lambda a: a.sum()],
)
def test_a_cost_function_that_returns_another_shape_is_refused(wrong):
    with pytest.raises(ValueError, match="cost function returned"):
        plan(CEM(horizon=4, samples=8, chunk=6), wrong, 0, 1)


@pytest.mark.parametrize(("low", "high"), [([0.0], [0.0]), ([1.0], [0.0]), ([0.0], [1.0, 2.0])])
def test_bounds_without_room_are_refused(low, high):
    with pytest.raises(ValueError, match="low < high"):
        Bounds(torch.tensor(low), torch.tensor(high))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("random", "horizon", 0), ("random", "samples", 0), ("gradient", "iterations", -1),
        ("mppi", "correlation", 1.5), ("cem", "elites", 0), ("cem", "min_std", -0.1),
        ("cem", "initial_std", 0), ("icem", "keep", 1.5), ("icem", "decay", 0.9),
        ("mppi", "temperature", 0.0), ("gradient", "learning_rate", 0.0),
        ("icem", "kind", "simplex"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_with_their_value(name, field, value):
    said = f"^--{field.replace('_', '-')} must be .* got {value}"
    with pytest.raises(UserError, match=said):
        PlannerConfig(**{"kind": name, field: value})


def test_a_planner_is_made_by_its_name():
    assert isinstance(make_planner(PlannerConfig()), CEM)
    assert isinstance(make_planner(PlannerConfig(kind="random")), RandomShooting)


# -------------------------------------------------------------------------------- the algorithms


def test_noise_equals_the_recursion_that_defines_it():
    white = correlated_noise(generators(3, 4), 5, 6, 2, 0.0)
    noise = correlated_noise(generators(3, 4), 5, 6, 2, 0.7)
    expected = white[:, :, 0]
    for step in range(6):
        if step:
            expected = 0.7 * expected + (1 - 0.7**2) ** 0.5 * white[:, :, step]
        torch.testing.assert_close(noise[:, :, step], expected)


def test_the_update_of_cem_equals_a_slow_reference():
    rng = np.random.default_rng(0)
    actions, costs = rng.uniform(-1, 1, (3, 20, 4, 2)), rng.standard_normal((3, 20))
    costs[0, :17] = np.inf  # three elites with a finite cost are left
    costs[1] = np.inf  # none is left
    mean, std = rng.uniform(-1, 1, (3, 4, 2)), rng.uniform(0.1, 1, (3, 4, 2))
    bounds = Bounds(torch.tensor([-1.0, -3.0]).double(), torch.tensor([1.0, 2.0]).double())
    planner = CEM(horizon=4, elites=6, min_std=0.3)
    got = planner.update(
        SamplingState(*map(torch.from_numpy, (mean, std))),
        bounds,
        *map(torch.from_numpy, (actions, costs)),
    )
    for row in range(3):
        best = [n for n in np.argsort(costs[row])[:6] if np.isfinite(costs[row, n])]
        target_mean, target_std = mean[row], std[row]
        if best:
            target_mean = np.mean([actions[row, n] for n in best], axis=0)
            spread = np.mean([(actions[row, n] - target_mean) ** 2 for n in best], axis=0) ** 0.5
            target_std = np.maximum(spread, 0.3 * np.array([1.0, 2.5]))
        np.testing.assert_allclose(got.mean[row], target_mean)
        np.testing.assert_allclose(got.std[row], target_std)


def test_mppi_weighs_candidates_as_its_equation_says_whatever_the_scale_of_the_cost():
    rng = np.random.default_rng(0)
    actions, costs = rng.uniform(-1, 1, (2, 20, 4, 2)), rng.standard_normal((2, 20))
    costs[0, 5:9] = np.inf
    bounds = Bounds(torch.tensor([-1.0, -3.0]).double(), torch.tensor([1.0, 2.0]).double())
    planner = MPPI(horizon=4, temperature=0.5, min_std=0.01)
    state = SamplingState(torch.zeros(2, 4, 2).double(), torch.ones(2, 4, 2).double())
    for scale in (1.0, 1e3):
        inputs = map(torch.from_numpy, (actions, scale * costs))
        got = planner.update(state, bounds, *inputs)
        for row in range(2):
            finite = np.isfinite(costs[row])
            known, kept = costs[row, finite], actions[row, finite]
            weights = np.exp(-(known - known.min()) / (0.5 * known.std()))
            mean = np.average(kept, axis=0, weights=weights)
            spread = np.average((kept - mean) ** 2, axis=0, weights=weights) ** 0.5
            np.testing.assert_allclose(got.mean[row], mean)
            np.testing.assert_allclose(got.std[row], spread)


def test_gradients_find_a_better_plan_with_as_many_iterations():
    cost, settings = distance_to(targets(4, horizon=8)), {"horizon": 8, "samples": 24}
    icem = plan(ICEM(**settings, iterations=4), cost, *range(4)).cost
    descent = plan(GradientDescent(**settings, iterations=20), cost, *range(4)).cost
    assert (descent < icem).all()


def test_gradient_descent_reaches_a_corner_and_ignores_gradients_that_are_not_finite():
    def cost(actions):
        lowest = -(actions / (HIGH - LOW)).sum(dim=(-1, -2))
        return torch.where(actions[..., 0, 0] < -0.1, torch.nan, lowest)

    result = plan(GradientDescent(horizon=4, samples=8, iterations=40), cost, 0)
    assert ((HIGH - result.actions) / (HIGH - LOW)).max() < 0.01


def test_a_cost_without_a_gradient_is_refused_by_planners_that_need_one():
    with pytest.raises(ValueError, match="no gradient; use a sampling planner"):
        plan(
            GradientDescent(horizon=4), lambda actions: distance_to(targets(1))(actions.detach()), 0
        )


def test_icem_keeps_its_best_and_tries_them_again_in_the_next_iteration_and_decision():
    planner = ICEM(horizon=4, samples=40, iterations=3, elites=10, keep=0.3)
    tried = []

    def cost(actions):
        tried.append(actions)
        return distance_to(targets(2))(actions)

    first = plan(planner, cost, 0, 1)
    assert first.sampling.elites.shape == (2, 3, 4, 3)
    best = first.cost[:, None]
    torch.testing.assert_close(distance_to(targets(2))(first.sampling.elites)[:, :1], best)
    warm = planner.shift(first.sampling, LOPSIDED)
    torch.testing.assert_close(warm.elites[:, :, :-1], first.sampling.elites[:, :, 1:])
    torch.testing.assert_close(warm.elites[:, :, -1], first.sampling.elites[:, :, -1])
    tried.clear()
    plan(planner, cost, 2, 3, state=warm)
    torch.testing.assert_close(tried[0][:, 1:4], warm.elites)
    costs = [distance_to(targets(2))(actions).amin(dim=1) for actions in tried]
    assert bool((costs[1] <= costs[0]).all() and (costs[2] <= costs[1]).all())


def test_icem_looks_at_fewer_candidates_in_later_iterations_but_at_twice_the_elites():
    planner = ICEM(horizon=4, samples=40, iterations=4, elites=12, decay=1.25)
    sizes = []

    def cost(actions):
        sizes.append(actions.shape[1])
        return distance_to(targets(1))(actions)

    plan(planner, cost, 0)
    assert sizes == [40, 32, 25, 24]


def test_icem_reaches_over_a_few_decisions_what_cem_reaches_with_thrice_the_candidates():
    cost = distance_to(targets(8, horizon=1).expand(-1, 6, -1))  # as good after a step as before

    def settled(kind, samples):
        planner = kind(horizon=6, iterations=4, elites=8, samples=samples)
        state = planner.start(8, LOPSIDED)
        for decision in range(6):
            result = plan(planner, cost, *range(8 * decision, 8 * decision + 8), state=state)
            state = planner.shift(result.sampling, LOPSIDED)
        return result.cost.mean()

    assert settled(ICEM, 42) <= settled(CEM, 128)


def test_random_shooting_draws_every_action_uniformly_within_the_bounds():
    planner = RandomShooting(horizon=3, samples=4000)
    drawn = planner.sample(planner.start(1, LOPSIDED), LOPSIDED, generators(0))[0]
    unit = ((drawn - LOW) / (HIGH - LOW)).numpy()
    for step in range(3):
        for actuator in range(3):
            assert scipy.stats.kstest(unit[:, step, actuator], "uniform").pvalue > 1e-4
