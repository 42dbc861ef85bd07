"""The experiment on policy gradients: its exact values against sums over everything that can happen, resuming, bad input."""

import itertools
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.errors import UsageError
from experiments.policy import PolicySettings
from experiments.policy import experiment as policy_experiment
from experiments.policy import run as run_policy
from experiments.policy.cartpole import initial_policy, log_probs, moved, rollout, rollouts, starts
from experiments.policy.exact import PolicyPlace, all_groups, exact_moments, true_gradient
from experiments.policy.factors import grpo_factor, normal_factor, weights_by_length
from experiments.policy.grid import (
    COST,
    GAIN,
    GOAL,
    LOSS,
    MOVES,
    PIT,
    SIDE,
    START,
    STATES,
    Walk,
    expected_gae_gradient,
    expected_return,
    make_world,
    values,
)
from experiments.policy.language import choices_of
from experiments.policy.mdp import advantage_return, study_grid, to_go, whole_return
from experiments.policy.neural import all_advantages, batch_loss, fitted_critic, gradient, returns_to_go
from experiments.policy.sequences import all_sequences, initial_logits, token_log_probs
from experiments.policy.ways import PENALTIES, WAYS, batch_objective

KEY = jax.random.key(0)
K, BETA = 2, 0.3


@pytest.fixture
def run(run_main):
    return partial(run_main, PolicySettings, run_policy)


def two_prompts():
    """Seven sequences of at most two tokens, and two of the prompts, so that all batches can be enumerated."""
    seqs = all_sequences(3, 2)
    return seqs._replace(rewards=seqs.rewards[[0, 4]] + np.array([[0.0], [0.3]]))


def place_of(seqs, spread=0.6):
    rng = np.random.default_rng(0)
    reference, old, at = spread * rng.normal(size=(3, 3 + len(seqs.rewards), 3))
    return PolicyPlace(old + 0.3 * at, old, reference)


@pytest.fixture(scope="module")
def both():
    """By way and penalty: the enumerated moments, and those of all 7^4 batches through `batch_objective`; the truths."""
    seqs = two_prompts()
    place, calls = place_of(seqs), list(itertools.product(WAYS, PENALTIES))
    answers = np.array(list(itertools.product(range(7), repeat=2 * K))).reshape(-1, 2, K)
    with jax.enable_x64(True):
        at, old, reference = (jnp.asarray(x) for x in place)
        choices, menu = choices_of(calls)
        log_p = {False: token_log_probs(at, seqs).sum(-1), True: token_log_probs(old, seqs).sum(-1)}
        weights = {of: np.exp(np.asarray(x)[np.arange(2)[:, None], answers].sum((1, 2))) for of, x in log_p.items()}

        def slope(choice, answer):
            wrote = jnp.where(choice.old, old, at)
            of = lambda x: batch_objective(x, wrote, reference, answer, seqs, BETA, choice, menu)
            return jax.grad(of)(at).ravel()

        every = np.asarray(jax.jit(jax.vmap(jax.vmap(slope, (None, 0)), (0, None)))(choices, jnp.asarray(answers)))
        enumerated = exact_moments(place, seqs, all_groups(7, K), WAYS, PENALTIES, BETA)
        truths = {beta: true_gradient(place, seqs, beta) for beta in (0.0, BETA)}
    found = {}
    for (name, other), g in zip(calls, every, strict=True):
        w = weights[WAYS[name].old]
        mean = w @ g
        found[name, other] = mean, w @ (g**2).sum(1) - mean @ mean
    return enumerated, found, truths


def test_the_enumeration_of_groups_is_that_of_all_batches(both):
    """All 117 pairs of a way and a penalty: the mean and the total variance, to 1e-10."""
    enumerated, found, _ = both
    assert len(found) == 13 * 9
    for call, (mean, variance) in found.items():
        np.testing.assert_allclose(enumerated[call].mean, mean, atol=1e-10, err_msg=str(call))
        assert enumerated[call].variance == pytest.approx(variance, rel=1e-9), call


def test_what_is_unbiased_and_what_is_not(both):
    """RLOO is, and k / (k - 1) times Dr. GRPO. PPO's first step is. k1 in the reward and k2 as a loss are, k1 as a loss is 0."""
    _, found, truths = both
    off = {}
    for (name, other), (mean, _) in found.items():
        truth = truths[0.0 if other == "none" else BETA]
        off[name, other] = np.linalg.norm(mean - truth) / np.linalg.norm(truth)
        right = WAYS[name].unbiased and (PENALTIES[other] is None or PENALTIES[other].right)
        assert (off[name, other] < 1e-10) == right, (name, other, off[name, other])
        if not right:
            assert off[name, other] > 1e-3
    for other in ("none", "k1_reward"):
        rloo, dr = found["rloo", other], found["dr_grpo", other]
        np.testing.assert_allclose(rloo[0], K / (K - 1) * dr[0], atol=1e-12)
        assert rloo[1] == pytest.approx((K / (K - 1)) ** 2 * dr[1], rel=1e-10)
        np.testing.assert_allclose(found["batch_mean", other][0], (1 - 1 / (2 * K)) * rloo[0], atol=1e-12)
    np.testing.assert_allclose(found["rloo", "k1_loss"][0], truths[0.0], atol=1e-12)
    np.testing.assert_allclose(found["ppo_first_step", "none"][0], truths[0.0], atol=1e-12)
    # Dr. GRPO shrinks the reward, but not the penalty as a loss: as if beta were larger by k / (k - 1).
    shrunk = (truths[0.0] * (1 - 1 / K)) + (truths[BETA] - truths[0.0])
    np.testing.assert_allclose(found["dr_grpo", "k2_loss"][0], shrunk, atol=1e-12)


def test_which_lengths_a_normalisation_favours():
    """Both favour short answers. The sequence mean weighs by 1 / length, the token mean by less. Against all groups."""
    seqs = all_sequences(3, 3)
    log_p = np.asarray(token_log_probs(initial_logits(KEY, 3, 0.5), seqs).sum(-1), np.float64)[0]
    found = {kind: weights_by_length(log_p, seqs, 3, kind) for kind in (None, "sequence", "token")}
    np.testing.assert_allclose(list(found[None].values()), 1.0, rtol=1e-6)
    by_sequence, by_token = (np.array(list(found[kind].values())) for kind in ("sequence", "token"))
    np.testing.assert_allclose(by_sequence * [1, 2, 3], by_sequence[0], rtol=1e-6)
    assert np.all(np.diff(by_token) < 0)
    assert by_token[0] / by_token[-1] < by_sequence[0] / by_sequence[-1]
    p, lengths = np.exp(log_p) / np.exp(log_p).sum(), seqs.lengths
    others = [(p[i] * p[j], lengths[i] + lengths[j]) for i in range(len(p)) for j in range(len(p))]
    brute = [sum(w * 3 * (p @ lengths) / (n + total) for w, total in others) for n in (1, 2, 3)]
    np.testing.assert_allclose(by_token, brute, rtol=1e-5)


def test_the_factors_of_grpo():
    """At k = 4 and rate 0.5: 1.616 with ddof 0, 1.3995 with ddof 1. For rare successes sqrt(k - 1), for large k 1/sqrt(p(1-p))."""
    assert grpo_factor(0.5, 4, 0) == pytest.approx(1.6160254, abs=1e-6)
    assert grpo_factor(0.5, 4, 1) == pytest.approx(1.3995191, abs=1e-6)
    assert grpo_factor(1e-6, 4, 0) == pytest.approx(3**0.5, abs=1e-4)
    assert grpo_factor(0.1, 400, 0) == pytest.approx((0.1 * 0.9) ** -0.5, rel=1e-2)
    assert normal_factor(4) == pytest.approx(0.690988, abs=1e-6)


# The grid: every sequence of actions and gusts of wind, for a horizon of three steps.
HORIZON = 3


def all_walks(first):
    """Every path from a state: its states, actions, rewards and padding, and the probability of its wind. In NumPy."""
    walks, chances = [], []
    for actions in itertools.product(range(4), repeat=HORIZON):
        for gusts in itertools.product((0, 1), repeat=HORIZON):
            state, chance, path = first, 1.0, []
            for action, gust in zip(actions, gusts, strict=True):
                alive = state not in (GOAL, PIT)
                row, column = state // SIDE + MOVES[action][0], state % SIDE + MOVES[action][1]
                row, column = min(max(row, 0), SIDE - 1), min(max(column, 0), SIDE - 1)
                row = min(row + gust, SIDE - 1)
                after = row * SIDE + column if alive else state
                gain = {GOAL: GAIN, PIT: LOSS}.get(after, 0.0) + COST
                path.append((state, action, gain if alive else 0.0, alive))
                chance *= 0.3 if gust else 0.7
                state = after
            walks.append(path)
            chances.append(chance)
    columns = [np.array([[step[i] for step in path] for path in walks]) for i in range(4)]
    return Walk(*map(jnp.asarray, columns)), jnp.asarray(chances)


def test_the_grid_against_all_its_paths(x64, monkeypatch):
    """The return, its gradient, and the mean of each estimator, to 1e-10. From a state next to the goal and the pit.

    Reward to go, any baseline of the state, and GAE(1) are unbiased with any critic, GAE(0.5) with the exact one. With a
    wrong critic its bias is that of the recursion.
    """
    first = GOAL - 1
    monkeypatch.setattr("experiments.policy.grid.START", first)
    world, rng = make_world(0.3), np.random.default_rng(0)
    logits, wrong = jnp.asarray(rng.normal(size=(STATES, 4))), jnp.asarray(rng.normal(size=(HORIZON, STATES)))
    walks, chances = all_walks(first)

    def chance_of(logits):
        log_p = jax.nn.log_softmax(logits)[walks.states, walks.actions]
        return chances * jnp.exp(log_p.sum(1))

    enumerated = lambda logits: (chance_of(logits) * walks.rewards.sum(1)).sum()
    exact = lambda logits: values(logits, world, HORIZON)[0, first]
    truth = jax.grad(enumerated)(logits)
    assert float(exact(logits)) == pytest.approx(float(enumerated(logits)), abs=1e-12)
    np.testing.assert_allclose(jax.grad(exact)(logits), truth, atol=1e-12)

    critic = values(logits, world, HORIZON)
    mean = lambda of: jnp.tensordot(chance_of(logits), jax.vmap(lambda w: jax.grad(of)(logits, w))(walks), 1)

    def all_means():
        by = lambda critic, decay: mean(partial(advantage_return, critic=critic, decay=decay))
        recursion = lambda critic, decay: expected_gae_gradient(logits, world, critic, decay)
        unbiased = [mean(whole_return), mean(partial(to_go, critic=None)), mean(partial(to_go, critic=wrong)),
                    by(critic, 0.5), by(critic, 0.0), by(wrong, 1.0), recursion(critic, 0.3), recursion(wrong, 1.0)]  # fmt: skip
        return unbiased, [(by(wrong, decay), recursion(wrong, decay)) for decay in (0.0, 0.5)]

    unbiased, biased = jax.jit(all_means)()
    for found in unbiased:
        np.testing.assert_allclose(found, truth, atol=1e-10)
    for found, recursion in biased:
        np.testing.assert_allclose(found, recursion, atol=1e-10)
        assert np.abs(found - truth).max() > 0.05


@pytest.mark.long
def test_the_grid_is_measured_as_the_recursion_says():
    """Eight directions of each of seven mean gradients, within 6 standard errors. False failures: below 1e-6.

    Catches a bias of about a third of the gradient: `reinforce` has the largest standard error, 5 % of it.
    """
    settings = PolicySettings(horizon=6, decays=(0.5,), grid_episodes=4, grid_replicates=1_000)
    found = study_grid(settings, KEY, lambda done: None)
    assert len(found.rows) == 7
    by = {r["estimator"]: r for r in found.rows}
    assert all(r["holds"] for r in found.rows)
    assert by["gae(0.5)+stale"]["bias"] > 0.1
    assert {name for name, r in by.items() if not r["unbiased"]} == {"gae(0.5)+learned", "gae(0.5)+stale"}
    assert expected_return(jnp.zeros((STATES, 4)), make_world(0.2), 20) < 0
    assert START == 0


# The cart and pole.
def test_the_dynamics_are_those_of_the_paper():
    """Barto, Sutton and Anderson 1983 with the constants of CartPole-v1, as a linear system that NumPy solves."""
    rng = np.random.default_rng(0)
    states, actions = rng.normal(size=(20, 4)) * 0.5, rng.integers(0, 2, 20)
    found = moved(jnp.asarray(states, float), jnp.asarray(actions))
    for (x, v, a, w), action, after in zip(states, actions, found, strict=True):
        m, total, half = 0.1, 1.1, 0.5
        # (4/3) l a'' + cos(a) x'' = g sin(a), and  M x'' + m l cos(a) a'' = F + m l w^2 sin(a)
        left = [[4 / 3 * half, np.cos(a)], [m * half * np.cos(a), total]]
        right = [9.8 * np.sin(a), (10.0 if action else -10.0) + m * half * w**2 * np.sin(a)]
        angular, linear = np.linalg.solve(left, right)
        np.testing.assert_allclose(
            after, [x + 0.02 * v, v + 0.02 * linear, a + 0.02 * w, w + 0.02 * angular], atol=1e-5
        )


def test_rollouts_and_their_gradient():
    """Padding follows the end of an episode; pieces add up to the whole gradient; the estimators are their formulas."""
    params = initial_policy(KEY, 8)
    first = starts(KEY, 6, 3)
    assert np.all(np.asarray(first[0]) == np.asarray(first[2]))
    seen = jax.jit(partial(rollout, horizon=100))(params, KEY, first)
    alive = np.asarray(seen.alive)
    assert np.all(np.diff(alive.astype(int), axis=0) <= 0)
    assert 6 * 8 < alive.sum() < 6 * 100
    one = jax.tree.map(lambda x: x[None], params)
    many, t = jax.jit(partial(rollouts, horizon=100))(one, KEY, first[None], jnp.ones(1, bool))
    assert int(t) == int(many.alive.sum(0).max())
    to_go = np.asarray(returns_to_go(seen.alive))
    np.testing.assert_array_equal(to_go, alive[::-1].cumsum(0)[::-1] * alive)
    names = ("reinforce", "reward_to_go", "learned_baseline", "rloo", "rloo_to_go")
    advantages = np.asarray(jax.jit(lambda seen: all_advantages(seen, jnp.arange(15.0), names, 3))(seen))
    total = to_go[0].reshape(2, 3)
    loo = total - (total.sum(1, keepdims=True) - total) / 2
    np.testing.assert_allclose(advantages[3][0], loo.ravel(), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(advantages[0][0], to_go[0])
    late = to_go[9].reshape(2, 3)
    np.testing.assert_allclose(advantages[4][9], (1.5 * (late - late.mean(1, keepdims=True))).ravel(), atol=1e-4)
    by_hand = lambda p: -(jnp.where(seen.alive, log_probs(p, seen.states, seen.actions), 0.0) * advantages[4]).sum() / 6
    of = lambda p: (jax.grad(batch_loss)(p, seen, advantages[4]), gradient(p, seen, advantages[4], jnp.asarray(2)))
    whole, *others = jax.jit(lambda p: (jax.grad(by_hand)(p), *of(p)))(params)
    for found in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, whole)
    critic = fitted_critic(seen, jnp.asarray(to_go))
    assert np.all(np.isfinite(critic))


TINY = ("--parts", "cartpole", "--env-steps", 600, "--hidden", 4, "--seeds", 2, "--episodes", 4, "--same-start", 2,
        "--noise-replicates", 4, "--every", 3, "--methods", "reward_to_go", "rloo")  # fmt: skip


@pytest.mark.long
def test_a_resumed_run_is_the_same(run, monkeypatch):
    assert run(*TINY, "--out", "whole")[0] == 0
    calls, write = [], policy_experiment.write_checkpoint

    def interrupted(*args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*args, **kwargs)
        calls.append(args)

    with monkeypatch.context() as patch:
        patch.setattr(policy_experiment, "write_checkpoint", interrupted)
        status, _, err = run(*TINY, "--out", "part")
    assert status == 130
    assert err == "interrupted; piece 2 of the training is kept; continue with --resume part\n"
    status, out, _ = run("--resume", "part", *TINY)
    assert status == 0
    assert "continuing from step 2" in out
    assert Path("part/table.csv").read_bytes() == Path("whole/table.csv").read_bytes()
    assert Path("part/curves.csv").read_bytes() == Path("whole/curves.csv").read_bytes()
    status, _, err = run("--resume", "part", *TINY, "--neural-rate", 0.5)
    assert (status, "it was made with neural_rate = 0.01 (now 0.5); use the same settings" in err) == (2, True)


@pytest.mark.long
def test_the_network_learns(run):
    """The best estimator reaches a mean return of 400 of 500 on at least 7 of 8 seeds, with the default steps."""
    assert run("--parts", "cartpole", "--out", "a")[0] == 0
    rows = json.loads(Path("a/result.json").read_text())["rows"]
    assert max(r["reached"] for r in rows) >= 7
    assert {r["estimator"] for r in rows} == set(PolicySettings().methods)


@pytest.mark.long
def test_all_parts(run):
    """The tables of the README of all three parts."""
    flags = (
        "--env-steps",
        300,
        "--hidden",
        4,
        "--seeds",
        2,
        "--episodes",
        4,
        "--same-start",
        2,
        "--noise-replicates",
        4,
    )
    few = ("--length", 2, "--group", 2, "--training-steps", 20, "--runs", 2, "--replicates", 200, "--decays", 0.5)
    more = ("--horizon", 5, "--grid-replicates", 200, "--grid-episodes", 4)
    status, out, _ = run(*flags, *few, *more, "--out", "a")
    assert status == 0, out
    assert {r["part"] for r in json.loads(Path("a/result.json").read_text())["rows"]} == {
        "sequences",
        "grid",
        "cartpole",
    }


def test_small_run_says_what_is_biased(small_run):
    rows = json.loads((small_run("policy")[3] / "result.json").read_text())["rows"]
    by = {(r["estimator"], r["penalty"]): r for r in rows}
    assert by["rloo", "none"]["bias"] < 1e-9
    assert by["rloo", "k1_reward"]["bias"] < 1e-9
    assert by["rloo", "k1_loss"]["bias"] > 0.1
    assert by["grpo", "none"]["bias"] > 0.1
    assert all(r["measured_z"] is None or r["measured_z"] < 6 for r in rows)


def test_bad_input(run):
    for flags, message in (
        (("--group", 30), "--group 30: "),
        (("--estimators", "rlo"), "--estimators: 'rlo' is unknown; there are: reinforce, batch_mean, rloo"),
        (("--same-start", 5), "--same-start: 5 does not divide the 16 episodes of --episodes; give a divisor"),
        (("--resume", "nowhere"), "--resume nowhere: this folder has no checkpoint"),
        (("--length", 7), "--length: input should be less than or equal to 6"),
    ):
        status, _, err = run("--parts", "sequences", *flags)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    with pytest.raises(UsageError, match="groups of the 7 sequences are too many to enumerate"):
        all_groups(7, 60)
