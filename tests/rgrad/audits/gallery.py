"""Losses whose gradient is known to be right or wrong. The lines that cut a path are marked by `# cut`."""

import inspect
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

import rgrad
from rgrad.audits.audit import _measured
from rgrad.audits.judgement import LOOKS, TOLERANCE
from rgrad.audits.subject import subject_of
from rgrad.comparison.judged import BIASED, UNBIASED
from rgrad.tracing.paths import jumps_of

detached = lax.stop_gradient
REF = 0.3  # the probability of the reference in the estimators of KL
F = jnp.array([0.5, 2.0, -1.0])
LOGITS = jnp.array([0.3, -0.4, 0.1])
DATA = jnp.linspace(-1.0, 2.0, 8)


class Case(NamedTuple):
    loss: Any
    params: Any
    right: bool
    value: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012

    @property
    def name(self):
        function = self.loss.func if isinstance(self.loss, partial) else self.loss
        return function.__name__ + "".join(f"_{value}" for value in getattr(self.loss, "keywords", {}).values())

    @property
    def cuts(self):
        """The numbers of the marked lines."""
        lines, first = inspect.getsourcelines(self.loss.func if isinstance(self.loss, partial) else self.loss)
        return [first + i for i, line in enumerate(lines) if line.rstrip().endswith("# cut")]


# A bit.
def bit_by_where(p, key):
    b = jnp.where(jax.random.uniform(key) < p, 1.0, 0.0)  # cut
    return (b - 0.3) ** 2


def bit_by_bernoulli(t, key):
    b = jax.random.bernoulli(key, jax.nn.sigmoid(t))  # cut
    return (b - 0.3) ** 2


def bit_score(p, key):
    return rgrad.expect(lambda b: (b - 0.3) ** 2, dist.Bernoulli(probs=p), key, 4, rgrad.score_function)


def bit_enumerated(t, key):
    return rgrad.expect(lambda b: (b - 0.3) ** 2, dist.Bernoulli(logits=t), key, 1, rgrad.enumerated)


def bit_straight_through(t, key):
    p = jax.nn.sigmoid(t)
    b = jax.random.bernoulli(key, p)
    b = p + detached(b - p)  # cut
    return (b - 0.45) ** 4


def bit_disarm(t, key):
    return rgrad.expect(lambda b: (b - 0.45) ** 4, dist.Bernoulli(logits=t), key, 1, rgrad.disarm)


# A class.
def class_by_categorical(logits, key):
    return F[jax.random.categorical(key, logits)]  # cut


def class_gumbel_max(logits, key):
    return F[jnp.argmax(logits + jax.random.gumbel(key, (3,)))]  # cut


def class_gumbel_softmax(logits, key):
    return jax.nn.softmax((logits + jax.random.gumbel(key, (3,))) / 0.5) @ F**2


def class_hard(logits, key):
    return F[jax.random.categorical(key, logits)] ** 2


def class_score(logits, key):
    return rgrad.expect(lambda i: F[i], dist.Categorical(logits=logits), key, 2, rgrad.score_function)


# The score function, written by hand.
def drawn(t, key, shape=(4,)):
    return t + jax.random.normal(key, shape)


def log_q(t, x):
    return -((x - t) ** 2) / 2


def square(t, key):
    return jnp.mean(drawn(t, key) ** 2)


def with_own(t, key):
    return jnp.mean((drawn(t, key) - 2 * t) ** 2)


def reinforce(t, key):
    x = detached(drawn(t, key))
    return jnp.mean(x**2 * log_q(t, x))


def reinforce_own(t, key):
    x = detached(drawn(t, key))
    f = (x - 2 * t) ** 2
    return jnp.mean(detached(f) * log_q(t, x) + f)


def reinforce_without_own(t, key):
    x = detached(drawn(t, key))
    f = (x - 2 * t) ** 2
    return jnp.mean(detached(f) * log_q(t, x))


def batch_mean(t, key):
    x = detached(drawn(t, key))
    return jnp.mean((x**2 - jnp.mean(x**2)) * log_q(t, x))


def leave_one_out(t, key):
    x = detached(drawn(t, key))
    f = x**2
    return jnp.mean((f - (jnp.sum(f) - f) / 3) * log_q(t, x))


def moving_average_too_early(t, key):
    x = detached(drawn(t, key, (1,)))
    baseline = 0.7 * 1.2 + 0.3 * jnp.mean(x**2)
    return jnp.mean((x**2 - baseline) * log_q(t, x))


def moving_average_before(t, key):
    x = detached(drawn(t, key, (1,)))
    return jnp.mean((x**2 - 1.2) * log_q(t, x))


def square_one(t, key):
    return jnp.mean(drawn(t, key, (1,)) ** 2)


def normalised_advantage(t, key):
    x = detached(drawn(t, key))
    f = x**2
    return jnp.mean((f - jnp.mean(f)) / (jnp.std(f) + 1e-3) * log_q(t, x))


def uniform_score(t, key):
    x = detached(t * jax.random.uniform(key))
    return x * -jnp.log(t)


def uniform_path(t, key):
    return t * jax.random.uniform(key)


def importance_twice(t, key):
    x = jax.random.normal(key)
    weight = jnp.exp(log_q(t, x) - log_q(0.0, x))
    return weight * x**2 * log_q(t, x)


def importance_once(t, key):
    x = jax.random.normal(key)
    weight = detached(jnp.exp(log_q(t, x) - log_q(0.0, x)))
    return weight * x**2 * log_q(t, x)


def importance_value(t, key):
    x = jax.random.normal(key)
    return jnp.exp(log_q(t, x) - log_q(0.0, x)) * x**2


def ratio(t, key):
    x = jax.random.normal(key)
    return jnp.exp(log_q(t, x) - log_q(0.0, x)) * (x + 0.5)


def ratio_clipped(t, key):
    x = jax.random.normal(key)
    return jnp.clip(jnp.exp(log_q(t, x) - log_q(0.0, x)), 0.8, 1.2) * (x + 0.5)  # cut


# The path through a sample.
def step(t, key):
    return jnp.where(drawn(t, key, ()) > 0.3, 1.0, 0.0)  # cut


def step_score(t, key):
    f = lambda x: jnp.where(x > 0.3, 1.0, 0.0)
    return rgrad.expect(f, dist.Normal(t, 1.0), key, 2, rgrad.score_function)


def hinge(t, key):
    return jnp.where(drawn(t, key, ()) > 0.3, drawn(t, key, ()) - 0.3, 0.0)


def rounded(t, key):
    return jnp.round(drawn(t, key, ()) * 2) / 2 * t  # cut


def sign_of(t, key):
    return jnp.sign(drawn(t, key, ())) + t**2  # cut


def sorted_path(t, key):
    return jnp.sort(drawn(t, key, (3,)))[0] ** 2


def walk(t, key):
    def move(x, k):
        return x + jnp.floor(t + jax.random.normal(k)) * 0.1, None  # cut

    return lax.scan(move, 0.0, jax.random.split(key, 3))[0] + t


def geometric_loop(t, key):
    def tail(k, i):
        return jax.random.uniform(jax.random.fold_in(k, i)) > jax.nn.sigmoid(t)

    count = lax.while_loop(lambda i: tail(key, i) & (i < 20), lambda i: i + 1, 0)  # cut
    return count + 0.0 * t


def geometric_score(t, key):
    return rgrad.expect(lambda x: 1.0 * x, dist.Geometric(logits=t), key, 4, rgrad.score_function)


def poisson(t, key):
    return jax.random.poisson(key, jnp.exp(t)) * 1.0  # cut


def gamma_path(t, key):
    return jax.random.gamma(key, t) ** 2


def gamma_by_exp(t, key):
    """A log normal with the mean and the variance of the Gamma, if only the mean is differentiated."""
    sd = jnp.sqrt(jnp.log1p(1 / detached(t)))
    return jnp.exp(jnp.log(t) - sd**2 / 2 + sd * jax.random.normal(key)) ** 2


def gamma_square(t, key):
    return t * (t + 1)


# Custom rules.
@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))


@jax.custom_vjp
def doubled(x):
    return x**3


doubled.defvjp(lambda x: (x**3, x), lambda x, g: (6 * x**2 * g,))


@jax.custom_jvp
def forgetful(x):
    return x**3


forgetful.defjvp(lambda x, dx: (x[0] ** 3, 0.0 * dx[0]))


def rule_right(t, key):
    return cube(drawn(t, key, ()))


def rule_doubled(t, key):
    return doubled(drawn(t, key, ()))  # cut


def rule_forgotten(t, key):
    return forgetful(drawn(t, key, ())) + t  # cut


# KL(pi || ref) for a Bernoulli of logit t, from samples that are held constant.
def _log_ratio(t, key, n=8):
    x = detached(jax.random.bernoulli(key, jax.nn.sigmoid(t), (n,)))
    log_pi = jnp.where(x, jax.nn.log_sigmoid(t), jax.nn.log_sigmoid(-t))
    return log_pi - jnp.where(x, jnp.log(REF), jnp.log(1 - REF))


def k1(t, key):
    return jnp.mean(_log_ratio(t, key))


def k2(t, key):
    return jnp.mean(_log_ratio(t, key) ** 2) / 2


def k3(t, key):
    r = _log_ratio(t, key)
    return jnp.mean(jnp.exp(-r) - 1 + r)


def _bernoulli_kl(p, q):
    return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))


def kl(t, key):
    return _bernoulli_kl(jax.nn.sigmoid(t), REF)


def kl_reversed(t, key):
    return _bernoulli_kl(REF, jax.nn.sigmoid(t))


# Evidence bounds: p(z) = N(0, 1), p(x | z) = N(z, 1), x = 1.
def _elbo(params, key, sign=1.0, cut_q=lambda p: p, cut_z=lambda z: z):
    scale = jnp.exp(params["log_scale"])
    z = params["loc"] + scale * jax.random.normal(key)
    q = cut_q({"loc": params["loc"], "scale": scale})
    entropy = (cut_z(z) - q["loc"]) ** 2 / (2 * q["scale"] ** 2) + jnp.log(q["scale"])
    return (1.0 - z) ** 2 / 2 + sign * (z**2 / 2 - entropy)


def elbo(params, key):
    return _elbo(params, key)


def elbo_sticking_the_landing(params, key):
    return _elbo(params, key, cut_q=detached)


def elbo_detached_sample(params, key):
    return _elbo(params, key, cut_z=lambda z: detached(z))  # cut


def elbo_wrong_sign(params, key):
    return _elbo(params, key, sign=-1.0)


# Size, noise, trees.
def _network(params, key, cut=lambda h: h):
    w, b, v = params["w"], params["b"], params["v"]
    h = cut(jnp.tanh(jnp.outer(DATA, jnp.ones(8)) @ w + b))
    mask = jax.random.bernoulli(key, 0.5, h.shape[-1:])
    return jnp.mean((jnp.where(mask, 2 * h, 0.0) @ v - DATA**2) ** 2)


def _weights(width):
    one, two = jax.random.split(jax.random.key(3))
    return {"w": 0.1 * jax.random.normal(one, (8, width)), "b": jnp.full(width, 0.1),
            "v": jax.random.normal(two, (width,)) / width**0.5}  # fmt: skip


def network(params, key):
    return _network(params, key)


def network_detached(params, key):
    return _network(params, key, cut=lambda h: detached(h))  # cut


def tree(params, key):
    a, (b, c) = params["a"], params["rest"]
    return jnp.sum(a * jax.random.normal(key, (2,))) ** 2 + b * c**2 + a[0] * b


def tree_detached(params, key):
    a, (b, c) = params["a"], params["rest"]
    return jnp.sum(a * jax.random.normal(key, (2,))) ** 2 + detached(b) * c**2 + a[0] * b  # cut


def noisy(t, key):
    """Signal-to-noise ratio 1/30."""
    x = detached(t + jax.random.normal(key))
    return (x + 30.0) * log_q(t, x)


def noisy_biased(t, key):
    """The same with a bias of 10 %."""
    return noisy(t, key) + 0.1 * t


def plain(t, key):
    return t + jax.random.normal(key) + 30.0


def heavy_tailed(t, key):
    """The gradient has no variance: Student t with 1.5 degrees of freedom."""
    return t * (1.0 + jnp.tan(jnp.pi * (jax.random.uniform(key) - 0.5)) ** 2) ** 0.3


def spread(t, key):
    """The log normal, with a kurtosis of 9,000."""
    return t * jnp.exp(1.5 * jax.random.normal(key))


def cubic(t, key):
    return t**3


def cubic_detached(t, key):
    return t**2 * detached(t)  # cut


AT = {"loc": 0.2, "log_scale": -0.3}
TREE = {"a": jnp.array([0.5, 1.5]), "rest": (0.7, -1.2)}
CASES = [
    Case(bit_by_where, 0.4, False),
    Case(bit_by_bernoulli, 0.4, False),
    Case(bit_score, 0.4, True),
    Case(bit_enumerated, 0.4, True),
    Case(bit_straight_through, 0.4, False),
    Case(bit_disarm, 0.4, True),
    Case(class_by_categorical, LOGITS, False),
    Case(class_gumbel_max, LOGITS, False),
    Case(class_gumbel_softmax, LOGITS, True),
    Case(class_gumbel_softmax, LOGITS, False, class_hard),
    Case(class_score, LOGITS, True),
    Case(reinforce, 0.6, True, square),
    Case(reinforce_own, 0.6, True, with_own),
    Case(reinforce_without_own, 0.6, False, with_own),
    Case(batch_mean, 0.6, False, square),
    Case(leave_one_out, 0.6, True, square),
    Case(moving_average_too_early, 0.6, False, square_one),
    Case(moving_average_before, 0.6, True, square_one),
    Case(normalised_advantage, 0.6, False, square),
    Case(uniform_score, 1.5, False, uniform_path),
    Case(uniform_path, 1.5, True),
    Case(importance_twice, 0.5, False, importance_value),
    Case(importance_once, 0.5, True, importance_value),
    Case(importance_value, 0.5, True),
    Case(ratio, 0.5, True),
    Case(ratio_clipped, 0.5, False, ratio),
    Case(step, 0.1, False),
    Case(step_score, 0.1, True),
    Case(hinge, 0.1, True),
    Case(rounded, 0.7, False),
    Case(sign_of, 0.7, False),
    Case(sorted_path, 0.7, True),
    Case(walk, 0.2, False),
    Case(geometric_loop, 0.2, False),
    Case(geometric_score, 0.2, True),
    Case(poisson, 0.2, False),
    Case(gamma_path, 1.3, True),
    Case(gamma_by_exp, 1.3, False, gamma_square),
    Case(rule_right, 0.8, True),
    Case(rule_doubled, 0.8, False),
    Case(rule_forgotten, 0.8, False),
    Case(k1, 0.8, False),
    Case(k2, 0.8, True, kl),
    Case(k3, 0.8, False, kl),
    Case(k3, 0.8, True, kl_reversed),
    Case(elbo, AT, True),
    Case(elbo_sticking_the_landing, AT, True, elbo),
    Case(elbo_detached_sample, AT, False, elbo),
    Case(elbo_wrong_sign, AT, False, elbo),
    Case(network, _weights(8), True),
    Case(network_detached, _weights(8), False),
    Case(tree, TREE, True),
    Case(tree_detached, TREE, False),
    Case(spread, 0.5, True),
    Case(cubic, 0.5, True),
    Case(cubic_detached, 0.5, False),
]


def verdicts(case, keys, budget):
    """The verdicts with different keys, in one compiled program."""
    key = jax.random.key(0)
    subject = subject_of(case.loss, case.params, key, case.value, None, False)
    jumps, program, found = jumps_of(subject.value, subject.theta, key), None, []
    for i in range(keys):
        rows = _measured(subject, 1, jax.random.key(1_000 + i), budget, jumps, LOOKS, TOLERANCE, program)
        program, codes = rows.program, rows.found.codes
        found.append("BIASED" if (codes == BIASED).any() else "ok" if (codes == UNBIASED).all() else "cannot tell")
    return found
