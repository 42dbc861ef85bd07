"""The section `steps` of `experiments.benchmark`: an optimiser step of real models, and of the same written by hand.

The hand-written losses are plain JAX with `jax.random`. They draw all noise of a step in one array, and check nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import Array
from numpyro.infer import Trace_ELBO
from sklearn.datasets import load_breast_cancer, load_digits

import rgrad
from experiments.benchmark.rivals import OURS, WrongResult
from experiments.benchmark.study import Row, compared, in_turn, seconds_of
from experiments.common.progress import Advance

Loss = Callable[[Any, Array], Array]
RATE = 1e-3
LATENTS, HIDDEN, IMAGES = 10, 100, 100  # of the VAE: z, hidden units, images in a step
BITS, PAIRS = 200, 50  # bits of the toy, and pairs of samples in a step
LOG_2_PI = float(np.log(2 * np.pi))
WIDTH = 1_000  # of the network: 1e6 parameters in one layer


class StepTask(NamedTuple):
    """One loss, written in several ways."""

    name: str
    params: Any
    losses: Mapping[str, Loss]
    """By contender: `(params, key) -> loss`. The first is ours."""
    steps: int
    """In one turn."""


def logistic(entropy: Any) -> StepTask:
    """Bayesian logistic regression, 569 x 30, under a normal with full covariance: the negative ELBO, 8 particles."""
    x, y = load_breast_cancer(return_X_y=True)
    x = jnp.asarray((x - x.mean(0)) / x.std(0), jnp.float32)
    sign = jnp.asarray(2 * y - 1, jnp.float32)
    rows, columns = x.shape
    particles, constant = 8, columns * LOG_2_PI / 2

    def log_joint(w: Array) -> Array:
        return jax.nn.log_sigmoid(sign * (x @ w)).sum() - (w @ w) / 2 - constant

    def factor(params: Any) -> Array:
        return jnp.tril(params["tril"], -1) + jnp.diag(jnp.exp(params["log_diagonal"]))

    def ours(params: Any, key: Array) -> Array:
        q = dist.MultivariateNormal(params["mean"], scale_tril=factor(params))
        return -rgrad.elbo(log_joint, q, key, particles, entropy=entropy)

    def by_hand(params: Any, key: Array) -> Array:
        e = jax.random.normal(key, (particles, columns))
        w = params["mean"] + e @ factor(params).T
        drawn = (e * e).sum(1).mean() / 2 if entropy == "sampled" else columns / 2
        return -jax.vmap(log_joint)(w).mean() - params["log_diagonal"].sum() - constant - drawn

    def model() -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
        with numpyro.plate("data", rows):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=(sign + 1) / 2)

    def guide(params: Any) -> None:
        numpyro.sample("w", dist.MultivariateNormal(params["mean"], scale_tril=factor(params)))

    def with_numpyro(params: Any, key: Array) -> Array:
        return Trace_ELBO(particles).loss(key, {}, model, partial(guide, params))

    params = {"mean": jnp.zeros(columns), "tril": jnp.zeros((columns, columns)), "log_diagonal": jnp.zeros(columns) - 2}
    losses = {OURS: ours, "by hand": by_hand} | ({"Trace_ELBO": with_numpyro} if entropy == "sampled" else {})
    return StepTask(f"logistic regression, {entropy} entropy", params, losses, 400)


def vae() -> StepTask:
    """A VAE of scikit-learn's digits, 100 images in a step, one z for each, exact entropy."""
    images = jnp.asarray(load_digits().data >= 8, jnp.float32)
    pixels = images.shape[1]
    shapes = ((pixels, HIDDEN), (HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN), (HIDDEN, pixels))
    random = np.random.default_rng(0)
    params = [(jnp.asarray(random.normal(size=s) / s[0] ** 0.5, jnp.float32), jnp.zeros(s[1])) for s in shapes]

    def network(layers: Any, x: Array) -> Array:
        (w, b), (v, c) = layers
        return jnp.tanh(x @ w + b) @ v + c

    def log_joint(params: Any, x: Array, z: Array) -> Array:
        return jax.nn.log_sigmoid((2 * x - 1) * network(params[2:], z)).sum(-1) - (z * z + LOG_2_PI).sum(-1) / 2

    def ours(params: Any, key: Array) -> Array:
        for_images, for_z = jax.random.split(key)
        x = images[jax.random.randint(for_images, (IMAGES,), 0, len(images))]

        def bound(x: Array, key: Array) -> Array:
            mean, log_sd = jnp.split(network(params[:2], x), 2)
            q = dist.Normal(mean, jnp.exp(log_sd)).to_event(1)
            return rgrad.elbo(partial(log_joint, params, x), q, key, entropy="exact")

        return -jax.vmap(bound)(x, jax.random.split(for_z, IMAGES)).mean()

    def by_hand(params: Any, key: Array) -> Array:
        for_images, for_z = jax.random.split(key)
        x = images[jax.random.randint(for_images, (IMAGES,), 0, len(images))]
        mean, log_sd = jnp.split(network(params[:2], x), 2, -1)
        z = mean + jnp.exp(log_sd) * jax.random.normal(for_z, mean.shape)
        return -(log_joint(params, x, z) + (log_sd + (LOG_2_PI + 1) / 2).sum(-1)).mean()

    return StepTask("VAE of digits", params, {OURS: ours, "by hand": by_hand}, 100)


def bits(estimator: str) -> StepTask:
    """A sum over 200 bits: `E sum (b - .499)^2`, 50 pairs of samples (DisARM), or 100 samples (leave-one-out)."""
    f = lambda b: jnp.sum((b - 0.499) ** 2)
    by_name: dict[str, tuple[Any, int]] = {
        "disarm": (rgrad.disarm, PAIRS),
        "leave_one_out": (partial(rgrad.score_function, baseline=rgrad.leave_one_out), 2 * PAIRS),
    }
    how, n = by_name[estimator]

    def ours(logits: Array, key: Array) -> Array:
        return rgrad.expect(f, dist.Bernoulli(logits=logits).to_event(1), key, n, how)

    def disarm(logits: Array, key: Array) -> Array:
        a = jax.lax.stop_gradient(logits)
        u, p = jax.random.uniform(key, (PAIRS, BITS)), jax.nn.sigmoid(a)
        b, opposite = (1 - u < p).astype(float), (u < p).astype(float)
        plus, minus = jax.vmap(f)(b), jax.vmap(f)(opposite)
        gradient = ((plus - minus)[:, None] * (b - opposite) * jax.nn.sigmoid(jnp.abs(a)) / 2).mean(0)
        return ((plus + minus) / 2).mean() + gradient @ (logits - a)

    def leave_one_out(logits: Array, key: Array) -> Array:
        b = (jax.random.uniform(key, (n, BITS)) < jax.nn.sigmoid(jax.lax.stop_gradient(logits))).astype(float)
        values = jax.vmap(f)(b)
        log_q = (b * logits - jax.nn.softplus(logits)).sum(1)
        weights = (values - values.mean()) * n / (n - 1)
        return values.mean() + (weights * (log_q - jax.lax.stop_gradient(log_q))).mean()

    hand = {"disarm": disarm, "leave_one_out": leave_one_out}[estimator]
    return StepTask(f"200 bits, {estimator}", jnp.zeros(BITS), {OURS: ours, "by hand": hand}, 1_000)


def network() -> StepTask:
    """A layer of 1e6 parameters, whose normal outputs go through a second layer of 1,000; 32 inputs in a step."""
    x = jax.random.normal(jax.random.key(1), (32, WIDTH))
    params = {"first": 0.03 * jax.random.normal(jax.random.key(2), (WIDTH, WIDTH)), "second": jnp.ones(WIDTH) / WIDTH}

    def error(params: Any, hidden: Array) -> Array:
        return (jnp.tanh(hidden) @ params["second"] - 0.1) ** 2

    def ours(params: Any, key: Array) -> Array:
        of = lambda hidden, key: rgrad.expect(partial(error, params), dist.Normal(hidden, 1.0).to_event(1), key)
        return jax.vmap(of)(x @ params["first"], jax.random.split(key, len(x))).mean()

    def by_hand(params: Any, key: Array) -> Array:
        hidden = x @ params["first"]
        return error(params, hidden + jax.random.normal(key, hidden.shape)).mean()

    return StepTask("network of 1e6 parameters", params, {OURS: ours, "by hand": by_hand}, 50)


TASKS: dict[str, Callable[[], StepTask]] = {
    "logistic exact": partial(logistic, "exact"),
    "logistic sampled": partial(logistic, "sampled"),
    "vae": vae,
    "disarm": partial(bits, "disarm"),
    "leave_one_out": partial(bits, "leave_one_out"),
    "network": network,
}


def compiled_steps(task: StepTask, loss: Loss) -> Any:
    """A program of `task.steps` steps of Adam, as a user would write it: `(params, key) -> losses`."""
    optimizer = optax.adam(RATE)

    def run(params: Any, key: Array) -> Array:
        def step(at: Any, key: Array) -> Any:
            params, state = at
            value, gradient = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, task.steps))[1]

    return jax.jit(run).lower(task.params, jax.random.key(0)).compile()


def steps_section(settings: Any, advance: Advance) -> list[Row]:
    """Steps per second of each task, in a `lax.scan` under the user's own `jax.jit`."""
    rows: list[Row] = []
    for make in TASKS.values():
        task = make()
        programs = {name: compiled_steps(task, loss) for name, loss in task.losses.items()}
        check({name: run(task.params, jax.random.key(settings.seed)) for name, run in programs.items()}, task.name)
        jobs = {name: partial(_steps_per_second, task, run, settings.seed) for name, run in programs.items()}
        found = compared("steps", task.steps, in_turn(jobs, settings.rounds, advance), 1)
        for r in found[bool(rows) :]:
            rows.append({**r, "contender": OURS if r["contender"] == OURS else f"{task.name}: {r['contender']}"})
    return rows


def _steps_per_second(task: StepTask, run: Any, seed: int, turn: int) -> float:
    return task.steps / seconds_of(lambda: jax.block_until_ready(run(task.params, jax.random.key(seed + turn))))[0]


def check(losses: Mapping[str, Any], name: str) -> None:
    """Checks that the mean losses of the last quarter of the steps agree, within 8 standard errors and 0.1 %.

    Raises:
        WrongResult: they do not.
    """
    last = {who: np.asarray(values[-(len(values) // 4) :], float) for who, values in losses.items()}
    mine = last[OURS]
    for who, other in last.items():
        error = ((mine.var() + other.var()) / len(mine)) ** 0.5
        if not abs(mine.mean() - other.mean()) <= 8 * error + 1e-3 * abs(mine.mean()):
            raise WrongResult(f"steps, {name}: the loss of {who} ends at {other.mean():.6g}, ours at {mine.mean():.6g}")
