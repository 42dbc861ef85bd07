"""Checks the equations of Aziz's notes for z = mu + C eps. The two sides are computed independently."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import LowerCholeskyAffine

import rgrad
from experiments.elbo.targets import PHIS, SCIPY, ElboTarget

Row = dict[str, Any]
EXACT = 1e-5  # largest relative difference between the sides of an equation without sampling, in 64 bits
LIMIT = 6.0  # in standard errors. By chance: once in 500 million normal means
NORMAL = 1.96
POINTS, SAMPLES, CALLS = 8, 64, 200  # points of a density, samples of one ELBO, and ELBOs whose mean is compared


def row(part: str, target: str, q: str, dimension: int, quantity: str, value: Any, **others: Any) -> Row:
    """The columns of every row. The interval is that of the difference if there is a reference, otherwise of the value."""
    columns: Row = {
        "part": part, "target": target, "q": q, "dimension": dimension, "quantity": quantity, "estimator": None,
        "entropy": None, "distance": None, "replicates": None, "value": float(value), "reference": None,
        "difference": None, "low": None, "high": None, "allowed": None, "holds": None,
    }  # fmt: skip
    return columns | others


def exactly(value: Any, reference: Any, difference: Any) -> Row:
    """The columns of an equation without sampling. The difference is relative."""
    return {"value": float(value), "reference": float(reference), "difference": float(difference), "allowed": EXACT,
            "holds": bool(abs(difference) <= EXACT)}  # fmt: skip


def sampled(value: Any, reference: Any, error: Any) -> Row:
    """The columns of an equation between means. The difference has this standard error."""
    difference = float(value - reference)
    # The second term allows for rounding if the variance is zero.
    allowed = LIMIT * float(error) + 1e-5 * abs(float(reference))
    return {
        "value": float(value), "reference": float(reference), "difference": difference,
        "low": difference - NORMAL * float(error), "high": difference + NORMAL * float(error), "allowed": allowed,
        "holds": bool(abs(difference) <= allowed),
    }  # fmt: skip


def cholesky_family(mu: Any, C: Any, phi: str) -> Any:
    """q for a Cholesky factor. Its gradients are measured, and its density is checked like that of `location_scale`."""
    if phi == "normal":
        return dist.MultivariateNormal(mu, scale_tril=C)
    return dist.TransformedDistribution(PHIS[phi]().expand([mu.size]).to_event(1), LowerCholeskyAffine(mu, C))


def check_rows(name: str, target: ElboTarget, phi: str, seed: int) -> Iterator[Row]:
    """The rows of one dimension: (4), (5), (6a), (6h) and (7c), for a general C and for a Cholesky factor. In 64 bits."""
    D = len(target.mu)
    rng = np.random.default_rng([seed, D, 1])
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    mu = target.mu + 0.5 * target.C @ rng.normal(size=D)
    triangle = lambda: target.C @ (0.7 * np.eye(D) + 0.3 * np.tril(rng.normal(size=(D, D)), -1) / np.sqrt(D))
    with jax.enable_x64(True):
        run = jax.jit(_library_sides(target.log_g, phi))
        for kind, C in (("general", triangle() @ rotation), ("cholesky", triangle())):
            q = f"{phi}, {kind} C"
            for quantity, columns in _of_one(target, mu, C, phi, kind, run, rng):
                yield row("equation", name, q, D, quantity, **columns)


def _library_sides(log_g: Callable[[Array], Any], phi: str) -> Callable[..., dict[str, Any]]:
    """The results of the library, in one program for both kinds of C. Only `location_scale` uses z = mu + C eps."""

    def sides(mu: Array, C: Array, points: Array, drawn: Array, key: Array) -> dict[str, Any]:
        q = lambda mu, C: rgrad.location_scale(mu, C, PHIS[phi]())
        elbo = lambda mu, C, key, entropy: rgrad.elbo(
            log_g, q(mu, C), key, SAMPLES, rgrad.reparameterized, entropy=entropy
        )
        gradient = jax.grad(elbo, (0, 1))
        z = q(mu, C).sample(key, (SAMPLES,))
        keys = jax.random.split(jax.random.fold_in(key, 1), CALLS)
        return {
            "log_q": jax.vmap(q(mu, C).log_prob)(points),
            "exact": gradient(mu, C, key, "exact"),
            "sampled": gradient(mu, C, key, "sampled"),
            "elbos": jax.vmap(lambda key: elbo(mu, C, key, "exact"))(keys),
            "elbos_6a": jax.vmap(lambda key: elbo(mu, C, key, "sampled"))(keys),
            "z": z,
            "s": jax.vmap(jax.grad(lambda z: jnp.asarray(log_g(z))))(z),
            "log_g": jax.vmap(log_g)(drawn),
        }

    return sides


def _of_one(
    target: ElboTarget, mu: np.ndarray, C: np.ndarray, phi: str, kind: str, run: Callable[..., Any], rng: Any
) -> Iterator[tuple[str, Row]]:
    D, law = len(mu), SCIPY[phi]
    inverse, log_det = np.linalg.inv(C), np.linalg.slogdet(C)[1]
    log_phi = lambda eps: law.logpdf(eps).sum(-1)
    eps = law.rvs(size=(POINTS, D), random_state=rng)
    points = mu + eps @ C.T
    drawn, log_q_drawn = _independent_draws(mu, C, phi, SAMPLES * CALLS, rng)
    found = {k: jax.tree.map(np.asarray, x) for k, x in run(mu, C, points, drawn, jax.random.key(rng.integers(2**32))).items()}  # fmt: skip

    independent = _independent_log_q(points, mu, C, phi)
    densities = {"location_scale": found["log_q"]}
    if kind == "cholesky":
        family = cholesky_family(jnp.asarray(mu), jnp.asarray(C), phi)
        densities["NumPyro"] = np.asarray(jax.vmap(family.log_prob)(jnp.asarray(points)))
    for whose, log_q in densities.items():
        worst = np.abs(log_q - independent).argmax()
        off = np.expm1(log_q[worst] - independent[worst])
        yield f"(4) log q(z), {whose}", exactly(log_q[worst], independent[worst], off)
    right = found["log_q"] + log_det
    worst = np.abs(log_phi(eps) - right).argmax()
    yield "(5) log phi(eps)", exactly(log_phi(eps)[worst], right[worst], np.expm1(log_phi(eps)[worst] - right[worst]))

    left = found["log_g"] - log_q_drawn
    elbo, error = found["elbos"].mean(), found["elbos"].std(ddof=1) / CALLS**0.5
    left_error = left.std(ddof=1) / left.size**0.5
    yield "(6h) E_q log g/q", sampled(left.mean(), elbo, np.hypot(left_error, error))
    sampled_error = found["elbos_6a"].std(ddof=1) / CALLS**0.5
    yield "(6a) elbo, sampled entropy", sampled(left.mean(), found["elbos_6a"].mean(), np.hypot(left_error, sampled_error))  # fmt: skip
    if target.expected is not None:
        closed = float(target.expected(mu, C, law.var())) + log_det + D * law.entropy()
        yield "(6h) elbo, closed form", sampled(elbo, closed, error)

    noise = (found["z"] - mu) @ inverse.T
    by_hand = found["s"].mean(0), found["s"].T @ noise / SAMPLES + inverse.T
    for what, mine, hand in zip(("mu", "C"), found["exact"], by_hand, strict=True):
        yield f"(7c) |d/d {what}|", exactly(_norm(mine), _norm(hand), _norm(mine - hand) / _norm(hand))
    both = [np.concatenate([np.ravel(g) for g in found[k]]) for k in ("sampled", "exact")]
    yield "(6a) = (6h) |gradient|", exactly(_norm(both[0]), _norm(both[1]), _norm(both[0] - both[1]) / _norm(both[1]))


def _norm(x: np.ndarray) -> float:
    return float(np.sqrt(np.sum(x**2)))


def _independent_log_q(z: np.ndarray, mu: np.ndarray, C: np.ndarray, phi: str) -> np.ndarray:
    """log q(z) without rgrad: for a normal from its covariance, for others from an explicit inverse and determinant."""
    if phi == "normal":
        q = dist.MultivariateNormal(jnp.asarray(mu), covariance_matrix=jnp.asarray(C @ C.T))
        return np.asarray(q.log_prob(jnp.asarray(z)))
    eps = (z - mu) @ np.linalg.inv(C).T
    return SCIPY[phi].logpdf(eps).sum(-1) - np.log(abs(np.linalg.det(C)))


def _independent_draws(mu: np.ndarray, C: np.ndarray, phi: str, n: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draws of q with NumPy, and their log densities. Those of a normal use only its covariance."""
    if phi == "normal":
        z = rng.multivariate_normal(mu, C @ C.T, n)
    else:
        z = mu + SCIPY[phi].rvs(size=(n, len(mu)), random_state=rng) @ C.T
    return z, _independent_log_q(z, mu, C, phi)
