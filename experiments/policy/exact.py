"""The exact mean and variance of each estimator of the first part: sums over all groups of answers, in 64 bits."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rgrad
from experiments.common.errors import UsageError
from experiments.common.progress import Advance
from experiments.policy.sequences import Sequences, all_sequences, objective, token_log_probs
from experiments.policy.ways import (
    Penalty,
    SequenceWay,
    length_weights,
    loss_terms,
    penalty_of,
    terms_of,
)

MOST = 3_000_000  # groups to enumerate


class GradientMoments(NamedTuple):
    """Of a gradient estimate, as a vector."""

    mean: np.ndarray
    variance: float
    """The total: the sum over all elements."""


class PolicyPlace(NamedTuple):
    """Where the gradient is taken."""

    logits: np.ndarray
    old: np.ndarray
    """The policy that wrote the answers of the ways that are off-policy."""
    reference: np.ndarray


class Groups(NamedTuple):
    """All groups of k answers, without order."""

    members: np.ndarray
    """Shape `(M, k)`, numbers of sequences."""
    orders: np.ndarray
    """Shape `(M,)`: in how many orders each can be drawn."""


def all_groups(count: int, k: int) -> Groups:
    """Every multiset of k of `count` sequences.

    Raises:
        UsageError: there are too many.
    """
    if (found := math.comb(count + k - 1, k)) > MOST:
        raise UsageError(
            f"--group {k}: {found:,} groups of the {count:,} sequences are too many to enumerate; give a smaller --group, "
            "--length or --vocabulary"
        )
    members = np.array(list(combinations_with_replacement(range(count), k)))
    starts = np.concatenate([np.ones((len(members), 1), bool), members[:, 1:] != members[:, :-1]], axis=1)
    run = np.zeros(len(members), int)
    orders = np.full(len(members), math.factorial(k), float)
    for i in range(k):  # divided by the factorial of each multiplicity
        run = np.where(starts[:, i], 1, run + 1)
        orders /= run
    return Groups(members, orders)


def true_gradient(place: PolicyPlace, seqs: Sequences, beta: float) -> np.ndarray:
    """Of the exact objective, as a vector."""
    with jax.enable_x64(True):
        at, reference = (jnp.asarray(x, jnp.float64) for x in (place.logits, place.reference))
        slope = _compiled_slope(int(seqs.tokens.max()) + 1, seqs.tokens.shape[1])
        return np.asarray(slope(at, reference, jnp.asarray(seqs.rewards), beta)).ravel()


@lru_cache
def _compiled_slope(vocabulary: int, length: int) -> Callable[[Array, Array, Array, float], Array]:
    seqs = all_sequences(vocabulary, length)

    def of(x: Array, reference: Array, rewards: Array, beta: float) -> Array:
        return objective(x, reference, seqs._replace(rewards=rewards), beta)[0]

    return jax.jit(jax.grad(of))


def exact_moments(
    place: PolicyPlace,
    seqs: Sequences,
    groups: Groups,
    ways: Mapping[str, SequenceWay],
    penalties: Mapping[str, Penalty | None],
    beta: float,
    advance: Advance = lambda done: None,
) -> dict[tuple[str, str], GradientMoments]:
    """Of the gradient of `ways.batch_objective`, over the answers, by the names of the way and the penalty."""
    found, advantages = {}, dict[Any, np.ndarray]()
    with jax.enable_x64(True):
        slopes, rewards, policies = _by_sequence(place, seqs, ways, penalties, beta)
        for name, way in ways.items():
            for other, penalty in penalties.items():
                term = way.ratio, way.old
                lost = slopes["loss", other, way.ratio == "sequence", way.old] if _is_loss(penalty) else None
                key = other if _in_reward(penalty) else None
                p, r, up = policies[way.old], rewards[key], slopes["up", *term]
                if way.baseline == "batch":
                    found[name, other] = _batch_mean(p, r, up, lost, groups.members.shape[1])
                    continue
                if (key, way.baseline, way.scale) not in advantages:
                    advantages[key, way.baseline, way.scale] = _advantages_of_groups(r, groups, way)
                a = advantages[key, way.baseline, way.scale]
                found[name, other] = _grouped(p, a, up, slopes["down", *term], lost, seqs, groups, way)
            advance(1)
    return found


def _is_loss(penalty: Penalty | None) -> bool:
    return penalty is not None and penalty.place == "loss"


def _in_reward(penalty: Penalty | None) -> bool:
    return penalty is not None and penalty.place == "reward"


def _by_sequence(
    place: PolicyPlace,
    seqs: Sequences,
    ways: Mapping[str, SequenceWay],
    penalties: Mapping[str, Penalty | None],
    beta: float,
) -> tuple[dict[Any, np.ndarray], dict[str | None, np.ndarray], dict[bool, np.ndarray]]:
    """By prompt and sequence: the gradients, of shape `(P, S, d)`; the rewards with each penalty; and the probabilities.

    The gradients: of its term with an advantage of 1 (`up`) and of -1 (`down`), and of the penalty as a loss.
    """
    at, old, reference = (jnp.asarray(x, jnp.float64) for x in place)
    mask = jnp.broadcast_to(jnp.asarray(seqs.mask), (len(seqs.rewards), *seqs.mask.shape))

    def of(x: Array) -> dict[Any, Array]:
        log_p, log_ref = token_log_probs(x, seqs), token_log_probs(reference, seqs)
        wrote = {way.old: token_log_probs(old if way.old else at, seqs) for way in ways.values()}
        found: dict[Any, Array] = {}
        for way in ways.values():
            for name, sign in (("up", 1.0), ("down", -1.0)):
                term = lambda p, q, way=way, sign=sign: terms_of(way, jnp.full(len(p), sign), p, q)
                found[name, way.ratio, way.old] = jax.vmap(term)(log_p, wrote[way.old])
            for name, penalty in penalties.items():
                if penalty is not None and penalty.place == "loss":
                    lost = beta * loss_terms(way, penalty, log_p, wrote[way.old], log_ref, mask)
                    found["loss", name, way.ratio == "sequence", way.old] = lost
        return found

    flat = lambda slope: np.asarray(slope).reshape(*slope.shape[:2], -1)
    keys: list[Any] = []

    def in_order(x: Array) -> list[Array]:  # the keys cannot be sorted, which a pytree would do
        found = of(x)
        keys[:] = found
        return list(found.values())

    jacobians = jax.jit(jax.jacfwd(in_order))(at)
    slopes = dict(zip(keys, jacobians, strict=True))
    log_p, log_ref = token_log_probs(at, seqs), token_log_probs(reference, seqs)
    rewards: dict[str | None, np.ndarray] = {None: np.asarray(seqs.rewards)}
    for name, penalty in penalties.items():
        if penalty is not None and penalty.place == "reward":
            rewards[name] = seqs.rewards - beta * np.asarray(penalty_of(penalty, log_p, log_ref, mask))
    policies = {way.old: np.exp(token_log_probs(old if way.old else at, seqs).sum(-1)) for way in ways.values()}
    return {key: flat(slope) for key, slope in slopes.items()}, rewards, policies


def _grouped(
    p: np.ndarray, a: np.ndarray, up: np.ndarray, down: np.ndarray, lost: np.ndarray | None,
    seqs: Sequences, groups: Groups, way: SequenceWay,
) -> GradientMoments:  # fmt: skip
    """The gradient of a group is `sum_j c_j v_j`, with v one of 3 S vectors. So `E[c]` and `E[c c^T]` are enough."""
    members, orders = groups
    s = len(seqs.texts)
    weight = np.asarray(length_weights(way, jnp.asarray(seqs.lengths[members])))
    means, variance = [], 0.0
    for x in range(len(p)):
        probability = orders * p[x][members].prod(1)
        which, coefficients = members + s * (a[x] < 0), weight * np.abs(a[x])
        vectors = np.concatenate([up[x], down[x]])
        if lost is not None:
            which, coefficients = np.hstack([which, members + 2 * s]), np.hstack([coefficients, -weight])
            vectors = np.concatenate([vectors, lost[x]])
        n = len(vectors)
        first = np.bincount(which.ravel(), (probability[:, None] * coefficients).ravel(), n)
        second = np.zeros(n * n)
        for i, j in combinations_with_replacement(range(which.shape[1]), 2):
            product = (1 if i == j else 2) * probability * coefficients[:, i] * coefficients[:, j]
            second += np.bincount(which[:, i] * n + which[:, j], product, n * n)
        means.append(first @ vectors)
        variance += float(second @ (vectors @ vectors.T).ravel() - means[-1] @ means[-1])
    return GradientMoments(sum(means) / len(p), variance / len(p) ** 2)


def _advantages_of_groups(rewards: np.ndarray, groups: Groups, way: SequenceWay) -> np.ndarray:
    """By prompt, shape `(P, M, k)`."""
    m, k = groups.members.shape
    ids = np.repeat(np.arange(m), k)
    of = lambda r: rgrad.group_advantages(r, ids, way.baseline, way.scale)  # type: ignore[arg-type]
    # Not compiled as a whole: XLA would fold the constants of so many groups, which takes long.
    return np.stack([np.asarray(of(jnp.asarray(r[groups.members.ravel()]))).reshape(m, k) for r in rewards])


def _batch_mean(p: np.ndarray, r: np.ndarray, s: np.ndarray, lost: np.ndarray | None, k: int) -> GradientMoments:
    """With the mean of all n = prompts x k rewards as the baseline, in closed form.

        g = (1/n) sum_i z_i - (1/n^2) sum_{i != j} r_j s_i,        z_i = (1 - 1/n) r_i s_i - penalty_i

    The second sum has mean 0, because the scores s have. All that is left of its covariances are terms in which each
    score meets another score or a reward of its own answer.
    """
    n = len(p) * k
    z = (1 - 1 / n) * r[..., None] * s - (0.0 if lost is None else lost)
    mean = lambda x: np.einsum("xs,xs...->x...", p, x)  # by prompt
    inner = lambda a, b: (a * b).sum(-1)
    of_z, of_r, of_rs = mean(z), mean(r), mean(r[..., None] * s)
    own = k * (mean(inner(z, z)) - inner(of_z, of_z)).sum()
    others = k * of_r.sum() - of_r  # the sum of the mean rewards of all other answers
    both = k * (mean(inner(z, s)) * others).sum()
    spread = mean(r**2) - of_r**2
    square = others**2 + k * spread.sum() - spread
    total = k * of_rs.sum(0)
    cross = k * (mean(inner(s, s)) * square).sum() + inner(total, total) - k * inner(of_rs, of_rs).sum()
    return GradientMoments(k * of_z.sum(0) / n, float(own / n**2 - 2 * both / n**3 + cross / n**4))
