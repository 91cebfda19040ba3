"""Factors of variation: each changes what it names and nothing else, by seed, wherever it works."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import pairwise

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_allclose, assert_array_equal, assert_equal

from mujepa.envs import gym_id
from mujepa.envs.factors import FACTORS
from mujepa.envs.gym import GoalEnv, GoalVectorEnv
from mujepa.envs.registry import TASKS
from mujepa.envs.variation import MOVING, Draw, read_variation
from mujepa.envs.world import STATE, World
from mujepa.evaluation.policies import OraclePolicy
from mujepa.planners import PlannerConfig, make_planner
from mujepa.rollouts.collection import behave
from mujepa.runtime.errors import UserError

STRONG = {
    "colour": 0.7, "light": 0.4, "camera": 1.0, "texture": 1.0, "distractors": 8.0, "mass": 2.0,
    "friction": 0.3, "damping": 3.0, "gravity": 1.5, "gain": 0.5,
    "flicker": 0.8, "drift": 6.0, "intruder": 2.0, "jitter": 1.0,
}  # fmt: skip
WORKING = {name: World(task).factors for name, task in TASKS.items()}
every_task = pytest.mark.parametrize("name", TASKS)
SOME = ("reacher", "cup", "cube")
some_tasks = pytest.mark.parametrize("name", SOME)
every_factor = pytest.mark.parametrize(
    ("name", "factor"), [(name, factor) for name in SOME for factor in WORKING[name]]
)
CHANGED_FIELDS = {
    "colour": ["geom_rgba"],
    "camera": ["cam_pos", "cam_quat"],
    "mass": ["body_mass", "body_inertia"],
    "friction": ["geom_friction", "dof_frictionloss"],
    "damping": ["dof_damping"],
    "gain": ["actuator_gainprm"],
}


@functools.cache
def world_of(name: str) -> World:
    return World(TASKS[name])


def everything(name: str) -> dict[str, tuple[float, float]]:
    """Ranges of all factors that work in a task."""
    ranges = {"distractors": (0.0, 6.0), "mass": (0.5, 2.0), "light": (0.5, 1.0)}
    ranges |= {"drift": (0.0, 6.0), "intruder": (0.0, 2.0)}
    return {factor: ranges.get(factor, (0.2, 0.8)) for factor in WORKING[name]}


def arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """All fields of a model that are arrays, and gravity."""
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    found = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return found | {"gravity": model.opt.gravity}


@functools.cache
def moved(name: str, factor: str | None) -> np.ndarray:
    """Where the behaviour policy gets, (B, T, S), under one factor or none."""
    world, rng = world_of(name), np.random.default_rng(0)
    starts = np.stack(
        [world.state(*world.task.sample_anywhere(world.model, rng)) for _ in range(8)]
    )
    width = len(world.action_low) + world.task.extra_noise_dims
    noise = np.stack([world.task.behaviour.draw(rng, 20, width) for _ in range(8)])
    variants = [world.variant(Draw({factor: STRONG[factor]}))] * 8 if factor else None
    return behave(world, starts, noise, variants)[0]


# ------------------------------------------------------------------ what a factor changes


@every_factor
def test_a_factor_changes_what_it_names_and_no_other_field_of_the_task(name, factor):
    world = world_of(name)
    before = {key: value.copy() for key, value in arrays(world.model).items()}
    after = arrays(world.variant(Draw({factor: STRONG[factor]})).model)
    assert_equal(arrays(world.model), before)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    expected = set(CHANGED_FIELDS.get(factor, [factor] if factor == "gravity" else []))
    if factor in ("mass", "camera"):  # other fields are derived from these
        assert expected <= changed
    elif factor in ("friction", "colour"):
        assert changed & expected
        assert changed <= expected | {"pair_friction", "site_rgba", "tendon_rgba"}
    else:
        assert changed == expected
    if factor == "mass":
        assert_allclose(after["body_mass"], 2 * before["body_mass"])
        assert_allclose(after["body_subtreemass"], 2 * before["body_subtreemass"])


@every_factor
def test_visual_factors_change_the_image_and_physical_ones_the_motion_and_never_both(name, factor):
    world = world_of(name)
    start = world.sample_episode(np.random.default_rng(0)).start[None]
    variant = world.variant(Draw({factor: STRONG[factor]}))
    seen, nominal = world.render(start, [variant]), world.render(start)
    if FACTORS[factor].kind == "visual":
        assert np.abs(seen.astype(int) - nominal).max() > 20
        assert_array_equal(moved(name, factor), moved(name, None))
    else:
        assert_array_equal(seen, nominal)
        assert np.abs(moved(name, factor) - moved(name, None)).max() > 1e-3
    assert_array_equal(world.render(start), nominal)


@some_tasks
def test_a_darker_light_makes_a_darker_image(name):
    world = World(replace(TASKS[name], antialias=False))  # smooth edges are mixed after clipping
    start = world.sample_episode(np.random.default_rng(0)).start[None]
    bright, dim = (world.render(start, [world.variant(Draw({"light": v}))]) for v in (1.0, 0.4))
    assert_allclose(dim, 0.4 * bright, atol=2)


@some_tasks
def test_what_people_see_is_varied_too(name):
    world = world_of(name)
    episode = world.sample_episode(np.random.default_rng(0))
    variant = world.variant(Draw({"light": 0.4, "texture": 1.0, "distractors": 8.0}))
    plain = world.render_pretty(episode.start)
    assert world.render_pretty(episode.start, variant=variant).mean() < plain.mean()


@some_tasks
def test_other_looks_are_other_pictures(name):
    world = world_of(name)
    start = world.sample_episode(np.random.default_rng(0)).start[None]
    for factor in ("colour", "camera", "distractors", *MOVING):
        values = {factor: STRONG[factor]}
        seen = [world.render(start, [world.variant(Draw(values, look))]) for look in (1, 2, 1)]
        assert (seen[0] != seen[1]).any()
        assert_array_equal(seen[0], seen[2])


@some_tasks
def test_neutral_values_change_nothing(name):
    varied = GoalEnv(name, vary={factor: FACTORS[factor].neutral for factor in WORKING[name]})
    plain = GoalEnv(name)
    one, other = varied.reset(seed=3), plain.reset(seed=3)
    assert one[1].pop("variation").keys() == set(WORKING[name])
    assert_equal(one, other)
    for _ in range(4):
        action = plain.action_space.sample()
        assert_equal(varied.step(action), plain.step(action))


@some_tasks
def test_a_varied_rollout_equals_a_plain_loop_over_mj_step_in_each_of_its_models(name):
    world, rng = World(TASKS[name], threads=2), np.random.default_rng(0)
    starts = np.stack([world.sample_episode(rng).start for _ in range(3)])
    draws = [read_variation(everything(name)).draw(np.random.default_rng(i)) for i in range(3)]
    variants = [*[world.variant(draw) for draw in draws[:2]], None]
    actions = world.from_unit(rng.uniform(-1, 1, (3, 6, len(world.action_low))))
    states, _ = world.rollout(starts, actions, 1, variants)
    for start, controls, variant, reached in zip(starts, actions, variants, states, strict=True):
        model = variant.model if variant else world.model
        data = mujoco.MjData(model)
        mujoco.mj_setState(model, data, start, STATE)
        for control in controls:
            data.ctrl[:] = control
            mujoco.mj_step(model, data, nstep=world.task.substeps)
        after = np.empty(world.state_size)
        mujoco.mj_getState(model, data, after, STATE)
        assert_array_equal(after, reached[-1])


# ------------------------------------------------------------------- what moves by itself


@some_tasks
def test_what_moves_by_itself_moves_while_the_world_stands_still(name):
    world = world_of(name)
    state = world.sample_episode(np.random.default_rng(0)).start
    film = np.stack([state] * 4)
    film[:, 0] = np.array([0, 1, 2, 1]) * world.step_seconds * world.task.frame_skip
    for factor in MOVING:
        variants = [world.variant(Draw({factor: STRONG[factor]}))] * 4
        seen = world.render(film, variants)
        changes = [(one != other).any() for one, other in pairwise(seen[:3])]
        assert all(changes), factor
        assert_array_equal(seen[3], seen[1])  # by the clock, not by what was drawn last
        goal = world.observe_goals(film[:1], "pixels", variants[:1])[0]
        assert (goal != seen[0]).any()
        assert_array_equal(world.observe_goals(film[1:2], "pixels", variants[:1])[0], goal)


@some_tasks
def test_what_stands_still_looks_alike_at_all_times(name):
    world = world_of(name)
    film = np.stack([world.sample_episode(np.random.default_rng(0)).start] * 2)
    film[1, 0] = 3.2
    draw = Draw({factor: STRONG[factor] for factor in WORKING[name] if factor not in MOVING})
    for variants in (None, [world.variant(draw)] * 2):
        one, other = world.render(film, variants)
        assert_array_equal(one, other)


def test_a_disc_is_seen_where_it_says_it_is_and_hides_nothing_that_moves():
    world = world_of("two_room")
    state = world.state(np.array([-0.25, -0.3]))
    variant = world.variant(Draw({"intruder": 1.0}, look=4))
    plain, found = world.render(state[None])[0].astype(int), 0
    red = np.abs(plain - [242, 77, 64]).sum(axis=-1) < 60
    assert red.sum() > 4
    for time in np.arange(0, 12, 0.4):
        state[0] = time
        seen = world.render(state[None], [variant])[0].astype(int)
        assert_array_equal(seen[red], plain[red])
        changed = (np.abs(seen - plain).sum(axis=-1) > 60).nonzero()
        if len(changed[0]) > 40:  # not under the walls
            x, y = variant.motion.intruders.points(time)[0]
            middle = [(changed[1].mean() + 0.5) / 32 - 1, 1 - (changed[0].mean() + 0.5) / 32]
            assert_allclose(middle, [x, y], atol=0.1)
            found += 1
    assert found > 5


# ------------------------------------------------------------------------------ by seed


@some_tasks
def test_the_same_seed_draws_the_same_and_starts_and_goals_are_those_without(name):
    vary = everything(name)
    one, other, plain = GoalEnv(name, vary=vary), GoalEnv(name, vary=vary), GoalEnv(name)
    for seed in (5, None):
        first, again, without = (env.reset(seed=seed) for env in (one, other, plain))
        assert_equal(first, again)
        assert_array_equal(first[0]["observation"], without[0]["observation"])
        assert_array_equal(first[0]["desired_goal"], without[0]["desired_goal"])
        for factor, (low, high) in vary.items():
            assert low <= first[1]["variation"][factor] <= high
        action = one.action_space.sample()
        assert_equal(one.step(action), other.step(action))
    resets = [one.reset(seed=5)[1], one.reset()[1], one.reset(seed=6)[1]]
    assert len({info["variation"]["mass"] for info in resets}) == 3


def test_what_a_factor_draws_does_not_depend_on_the_others():
    few, many = (read_variation(v) for v in ("mass=0.5:2", "mass=0.5:2 light=0.3:1 camera=0:1"))
    for seed in range(5):
        draws = [variation.draw(np.random.default_rng(seed)) for variation in (few, many)]
        assert draws[0].values["mass"] == draws[1].values["mass"]


def test_values_cover_their_range_evenly_and_counts_are_whole():
    variation = read_variation({"mass": (0.5, 2), "distractors": (0, 3), "gain": 0.7})
    draws = [variation.draw(np.random.default_rng(seed)).values for seed in range(4000)]
    quantiles = np.quantile([draw["mass"] for draw in draws], [0, 0.25, 0.5, 0.75, 1])
    assert_allclose(quantiles, [0.5, 0.875, 1.25, 1.625, 2], atol=0.05)
    counts = np.bincount([int(draw["distractors"]) for draw in draws])
    assert_allclose(counts / 4000, [0.25] * 4, atol=0.03)
    assert {draw["gain"] for draw in draws} == {0.7}


@some_tasks
def test_a_varied_vector_environment_equals_single_ones_also_when_it_starts_anew(name):
    vary = everything(name)
    envs = GoalVectorEnv(2, name, max_episode_steps=2, vary=vary)
    singles = [GoalEnv(name, vary=vary) for _ in range(2)]
    seen = envs.reset(seed=7)
    alone = [env.reset(seed=7 + index) for index, env in enumerate(singles)]
    for step in range(4):
        assert_equal(seen[0], {k: np.stack([o[0][k] for o in alone]) for k in seen[0]})
        if step in (0, 3):
            for key in ("goal_pixels", "variation"):
                one, other = (info[key] for _, info in (alone[0], alone[1]))
                rows = {k: [one[k], other[k]] for k in one} if key == "variation" else [one, other]
                assert_equal(seen[-1][key], rows)
        actions = envs.action_space.sample()
        seen = envs.step(actions)
        if step < 2:
            alone = [env.step(a)[::4] for env, a in zip(singles, actions, strict=True)]
        else:
            alone = [env.reset() for env in singles]
        if step == 2:
            assert seen[-1]["_variation"].all()


@some_tasks
def test_the_goal_image_is_of_the_episodes_own_world(name):
    env = GoalEnv(name, vary={"light": 0.4, "distractors": 6, "camera": 1})
    _, info = env.reset(seed=0)
    episode = env.world.sample_episode(np.random.default_rng(0))
    _, info = env.reset(options={"episode": episode})
    variants = [env.world.variant(episode.draw)]
    assert_array_equal(info["goal_pixels"], env.world.render(episode.goal[None], variants)[0])
    assert (info["goal_pixels"] != env.world.render(episode.goal[None])[0]).any()


@pytest.mark.parametrize("vary", [{"mass": (0.5, 2)}, ["mass=0.5:2"], "mass=0.5:2"])
@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is -?infinity")
def test_gymnasium_makes_varied_environments(vary):
    env = gymnasium.make(gym_id("reacher"), vary=vary)
    envs = gymnasium.make_vec(gym_id("reacher"), num_envs=2, vary=vary)
    one, both = (made.reset(seed=0)[1]["variation"]["mass"] for made in (env, envs))
    assert both.tolist()[0] == one
    assert 0.5 <= one <= 2
    check_env(env.unwrapped, skip_render_check=True)


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("vary", "answer"),
    [
        ("mass", "'mass' is neither NAME=LOW:HIGH nor NAME=VALUE"),
        ("mass=heavy", "'mass=heavy' is neither"),
        ("mass=1:2:3", "'mass=1:2:3' is neither"),
        ("mas=2", "unknown factor 'mas'; did you mean 'mass'?"),
        ("xyzzy=2", "unknown factor 'xyzzy'; factors: colour, light, camera"),
        ("mass=2:1", "mass=2:1: the range must go upwards and lie from 0.01 to 100"),
        ("mass=0:1", "mass=0:1: the range"),
        ("mass=nan", "mass=nan:nan: the range"),
        ("light=-1:1", "light=-1:1: the range"),
        ("colour=2", "lie from 0 to 1"),
        ("distractors=0.5:2", "distractors must be whole numbers"),
        ("mass=1 mass=2", "--vary mass mass: name each factor once"),
        ({"mass": (1, 2, 3)}, "'mass=(1, 2, 3)' is neither NAME=LOW:HIGH nor NAME=VALUE"),
        ({"mass": "heavy"}, "is neither NAME=LOW:HIGH"),
        ("friction=0:2:log", "friction=0:2:log: ratios need a real number above 0"),
        ("distractors=1:4:log", "distractors=1:4:log: ratios need a real number above 0"),
    ],
)
def test_a_variation_that_cannot_be_is_refused_in_one_line(vary, answer):
    with pytest.raises(UserError) as caught:
        read_variation(vary)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)


@every_task
def test_a_factor_that_a_task_does_not_have_is_refused_with_those_that_it_has(name):
    for factor in FACTORS.keys() - set(WORKING[name]):
        with pytest.raises(
            UserError, match=f"'{name}' has no {factor} to change; .*mass"
        ) as caught:
            GoalEnv(name, vary={factor: 0.5})
        assert str(caught.value).endswith(", ".join(WORKING[name]))


def test_the_factors_that_tasks_lack_are_these():
    lacking = {name: sorted(FACTORS.keys() - set(there)) for name, there in WORKING.items()}
    assert lacking["reacher"] == lacking["two_room"] == ["friction", "gravity"]
    assert lacking["cartpole"] == lacking["acrobot"] == lacking["double_pendulum"] == ["friction"]
    assert lacking["push_t"] == ["gravity"]
    assert lacking["cube"] == []


# ------------------------------------------------------------------------- from end to end


def test_the_oracle_foresees_what_will_happen_in_each_episodes_own_physics():
    vary = {"gain": (2, 3), "damping": (0.1, 0.3), "light": (0.3, 0.6)}
    envs = GoalVectorEnv(3, "reacher", 16, vary=vary)
    world = World(TASKS["reacher"], 16)
    oracle = OraclePolicy(world, make_planner(PlannerConfig()))
    observation, info = envs.reset(seed=0)
    state = oracle.reset(observation, info, [0, 1, 2])
    actions = torch.rand((3, 1, 4, 2), generator=torch.Generator().manual_seed(0)) * 2 - 1
    arguments = envs.get_state(), observation["desired_goal"]
    foreseen = oracle.cost_fn(*arguments, state.variants)(actions)[:, 0].numpy()
    unaware = oracle.cost_fn(*arguments)(actions)[:, 0].numpy()
    distances = []
    for step in range(4 * world.task.frame_skip):
        held = actions[:, 0, step // world.task.frame_skip].numpy()
        _, _, _, _, info = envs.step(world.from_unit(held).astype(np.float32))
        distances.append(info["distance"])
    happened = np.mean(distances[world.task.frame_skip - 1 :: world.task.frame_skip], axis=0)
    assert_allclose(foreseen, happened, atol=0.02)  # sensors lag by 20 ms
    assert np.abs(unaware - happened).max() > 0.05


def test_a_range_drawn_as_ratios_halves_as_often_as_it_doubles():
    variation = read_variation("mass=0.25:4:log")
    drawn = [variation.draw(np.random.default_rng(seed)).values["mass"] for seed in range(400)]
    assert 0.25 <= min(drawn) <= max(drawn) <= 4
    counts, _ = np.histogram(np.log2(drawn), [-2, -1, 0, 1, 2])
    assert counts.min() > 70  # 100 each
    even = read_variation("mass=0.25:4").draw(np.random.default_rng(0)).values["mass"]
    share = (even - 0.25) / 3.75
    assert drawn[0] == pytest.approx(0.25 * 16**share)


def test_a_range_drawn_as_ratios_survives_files_and_flags():
    variation = read_variation({"mass": (0.25, 4, "log"), "light": 0.5})
    assert variation.logarithmic == {"mass"}
    assert read_variation(json.loads(json.dumps(variation.plain()))) == variation
    assert read_variation(variation.flags()) == variation


def test_what_is_drawn_does_not_depend_on_what_lay_in_memory_before():
    one, other = World(TASKS["acrobot"]), World(TASKS["acrobot"])
    draw = Draw({"distractors": 6.0, "texture": 1.0, "flicker": 1.0}, look=3)
    start = one.sample_episode(np.random.default_rng(0)).start[None]
    scene = other._observer._scene
    for index in range(scene.maxgeom):
        scene.geoms[index].category = mujoco.mjtCatBit.mjCAT_STATIC.value
    images = [world.render(start, [world.variant(draw)]) for world in (one, other)]
    assert_array_equal(*images)
