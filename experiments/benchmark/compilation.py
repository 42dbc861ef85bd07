"""The section `compile` of `experiments.benchmark`: tracing and compilation of a gradient, beside one written by hand.

The functions below are the estimators as a paper has them, in plain JAX with `jax.random`, without any check. Each takes
`(theta, key)`, and returns the mean over N samples.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient
from jax.scipy.special import digamma, gammaln, polygamma

import rgrad
from experiments.benchmark.rivals import OURS, WrongResult
from experiments.benchmark.study import Row, compared, in_turn, seconds_of
from experiments.common.progress import Advance

N = 100
THETA = 0.7
Loss = Callable[[Array, Array], Array]
CLASSES = np.arange(3.0)

normal_of = lambda theta: dist.Normal(theta, 1.0)
gamma_of = lambda theta: dist.Gamma(jnp.exp(theta) + 1.0, 1.0)
bit_of = lambda theta: dist.Bernoulli(logits=theta)
one_hot_of = lambda theta: rgrad.OneHotCategorical(theta * CLASSES)
square = lambda x: x**2
cubed = lambda x: jnp.sum(CLASSES * x) ** 3


def normals(key: Array, n: int = N) -> Array:
    return jax.random.normal(key, (n,))


def log_normal(x: Array, theta: Array) -> Array:
    return -((x - theta) ** 2) / 2 - np.log(2 * np.pi) / 2


def attached(values: Any, log_q: Array) -> Array:
    """The values, with those times the derivative of `log_q` as their derivative."""
    return values + stop_gradient(values) * (log_q - stop_gradient(log_q))


def reparameterized(theta: Array, key: Array) -> Array:
    return square(theta + normals(key)).mean()


def antithetic(theta: Array, key: Array) -> Array:
    e = normals(key, N // 2)
    return square(theta + jnp.concatenate([e, -e])).mean()


def stratified(theta: Array, key: Array) -> Array:
    u = (jnp.arange(N) + jax.random.uniform(key, (N,), minval=1e-6)) / N
    return square(theta + jax.scipy.special.ndtri(u)).mean()


def score_function(theta: Array, key: Array) -> Array:
    x = stop_gradient(theta + normals(key))
    return attached(square(x), log_normal(x, theta)).mean()


def leave_one_out(theta: Array, key: Array) -> Array:
    x = stop_gradient(theta + normals(key))
    values, log_q = square(x), log_normal(x, theta)
    others = (values.sum() - values) / (N - 1)
    return (values + (values - others) * (log_q - stop_gradient(log_q))).mean()


def generalized(theta: Array, key: Array) -> Array:
    a = jnp.exp(theta) + 1.0
    mean, sd = digamma(a), jnp.sqrt(polygamma(1, a))
    y = stop_gradient(jnp.log(jax.random.gamma(key, a, (N,))))
    e = stop_gradient((y - mean) / sd)
    z = jnp.exp(mean + sd * e)
    log_pi = a * (mean + sd * e) - z - gammaln(a) + jnp.log(sd)
    return attached(square(z), log_pi).mean()


def rejection(theta: Array, key: Array) -> Array:
    a = jnp.exp(theta) + 1.0
    centre, width = a - 1 / 3, 1 / jnp.sqrt(9 * a - 3)
    z = stop_gradient(jax.random.gamma(key, a, (N,)))
    e = stop_gradient((jnp.cbrt(z / centre) - 1) / width)
    z = centre * (1 + e * width) ** 3
    log_pi = (a - 1) * jnp.log(z) - z - gammaln(a) + jnp.log(3 * centre * width * (1 + e * width) ** 2)
    return attached(square(z), log_pi).mean()


def measure_valued(theta: Array, key: Array) -> Array:
    """For the mean of a normal, coupled: x+ and x- lie on both sides of it, at a distance with a Rayleigh distribution."""
    for_x, for_w = jax.random.split(key)
    at, w = stop_gradient(theta), jnp.sqrt(2 * jax.random.exponential(for_w, (N,)))
    slope = (square(at + w) - square(at - w)) / np.sqrt(2 * np.pi)
    return (square(at + normals(for_x)) + slope * (theta - at)).mean()


def enumerated(theta: Array, key: Array) -> Array:
    p = jax.nn.sigmoid(theta)
    return p * square(1.0) + (1 - p) * square(0.0)


def pairs(theta: Array, key: Array) -> tuple[Array, Array, Array]:
    u, p = jax.random.uniform(key, (N,)), jax.nn.sigmoid(stop_gradient(theta))
    return u, (1 - u < p).astype(float), (u < p).astype(float)


def arm(theta: Array, key: Array) -> Array:
    u, b, c = pairs(theta, key)
    plus, minus = square(b), square(c)
    return ((plus + minus) / 2 + (plus - minus) * (u - 0.5) * (theta - stop_gradient(theta))).mean()


def disarm(theta: Array, key: Array) -> Array:
    _, b, c = pairs(theta, key)
    plus, minus = square(b), square(c)
    gradient = stop_gradient((plus - minus) * (b - c) * jax.nn.sigmoid(jnp.abs(theta)) / 2)
    return ((plus + minus) / 2 + gradient * (theta - stop_gradient(theta))).mean()


def rebar(theta: Array, key: Array) -> Array:
    for_z, for_given = jax.random.split(key)
    z = theta + jax.random.logistic(for_z, (N,))
    b = stop_gradient((z > 0) * 1.0)
    sign = 2 * b - 1
    given = sign * jax.nn.softplus(jax.random.logistic(for_given, (N,)) + jax.nn.softplus(sign * theta))
    free, conditional = (square(jax.nn.sigmoid(a / 0.5)) for a in (z, given))
    log_q = b * theta - jax.nn.softplus(theta)
    rest = free - conditional
    return (attached(square(b) - conditional, log_q) + conditional + rest - stop_gradient(rest)).mean()


def gumbel_softmax(theta: Array, key: Array) -> Array:
    z = jax.nn.log_softmax(theta * CLASSES) + jax.random.gumbel(key, (N, 3))
    return jax.vmap(cubed)(jax.nn.softmax(z / 0.5)).mean()


def straight_through(theta: Array, key: Array) -> Array:
    logits = jax.nn.log_softmax(theta * CLASSES)
    b = jax.nn.one_hot(jax.random.categorical(key, logits, shape=(N,)), 3)
    p = jax.nn.softmax(logits)
    return jax.vmap(cubed)(b + p - stop_gradient(p)).mean()


class CompileTask(NamedTuple):
    """An estimator of the table, the problem on which it is tried, and the same written by hand."""

    q: Callable[[Array], Any]
    f: Callable[[Any], Array]
    by_hand: Loss


TASKS: dict[str, CompileTask] = {
    "reparameterized": CompileTask(normal_of, square, reparameterized),
    "reparameterized+antithetic": CompileTask(normal_of, square, antithetic),
    "reparameterized+stratified": CompileTask(normal_of, square, stratified),
    "score_function": CompileTask(normal_of, square, score_function),
    "score_function+leave_one_out": CompileTask(normal_of, square, leave_one_out),
    "generalized": CompileTask(gamma_of, square, generalized),
    "rejection": CompileTask(gamma_of, square, rejection),
    "measure_valued": CompileTask(normal_of, square, measure_valued),
    "enumerated": CompileTask(bit_of, square, enumerated),
    "arm": CompileTask(bit_of, square, arm),
    "disarm": CompileTask(bit_of, square, disarm),
    "rebar": CompileTask(bit_of, square, rebar),
    "gumbel_softmax": CompileTask(one_hot_of, cubed, gumbel_softmax),
    "straight_through": CompileTask(one_hot_of, cubed, straight_through),
}


def ours(name: str, theta: Array, key: Array) -> Array:
    task = TASKS[name]
    return rgrad.expect(task.f, task.q(theta), key, N, rgrad.ESTIMATORS[name].estimator)


def compiled_gradient(loss: Loss) -> Any:
    """`jit(grad(loss))`, traced and compiled anew."""
    fresh = lambda theta, key: loss(theta, key)  # JAX keeps the traces of functions that it knows
    return jax.jit(jax.grad(fresh)).lower(THETA, jax.random.key(0)).compile()


def compile_section(settings: Any, advance: Advance) -> list[Row]:
    """Programs compiled per second, for each estimator."""
    rows: list[Row] = []
    for name, task in TASKS.items():
        losses: dict[str, Loss] = {OURS: partial(ours, name), name: task.by_hand}
        check({who: compiled_gradient(loss) for who, loss in losses.items()}, name)
        jobs = {who: partial(_programs_per_second, loss) for who, loss in losses.items()}
        found = compared("compile", N, in_turn(jobs, settings.rounds, advance), 1)
        rows += found[bool(rows) :]
    return rows


def _programs_per_second(loss: Loss, turn: int) -> float:
    return 1 / seconds_of(partial(compiled_gradient, loss))[0]


def check(gradients: dict[str, Any], name: str) -> None:
    """Checks that the mean gradients of 400 keys agree, within 8 standard errors.

    Raises:
        WrongResult: they do not.
    """
    keys = jax.random.split(jax.random.key(1), 400)
    found = {who: np.array([float(program(THETA, key)) for key in keys]) for who, program in gradients.items()}
    mine, other = found[OURS], found[name]
    error = ((mine.var() + other.var()) / len(keys)) ** 0.5
    if not abs(mine.mean() - other.mean()) <= 8 * error + 1e-5 * abs(mine.mean()):
        raise WrongResult(f"compile, {name}: mean gradient {other.mean():.5g} by hand, {mine.mean():.5g} here")
