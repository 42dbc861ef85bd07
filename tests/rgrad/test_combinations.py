"""Every combination of distribution, draws, estimator and expectation works, or is refused by name.

A refusal names the call and the cause, and contradicts nothing. If it names other estimators, they work here. Programs
are only traced. CI tests a sample of the combinations, and the long test tests all of them.
"""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import rgrad

KEY = jax.random.key(0)


class Minimal:
    """Only what `rgrad.Distribution` asks for. Not a pytree."""

    has_rsample = True

    def __init__(self, loc):
        self.loc = loc

    def sample(self, key, shape):
        return self.loc + jax.random.normal(key, shape)

    rsample = sample

    def log_prob(self, x):
        return -0.5 * (x - self.loc) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


TWO, THREE = jnp.ones(2), jnp.arange(3.0)
DISTRIBUTIONS = {
    "Normal": lambda t: dist.Normal(t, 1.5),
    "vector of Normals": lambda t: dist.Normal(t * TWO, 1.5).to_event(1),
    "expanded Normal": lambda t: dist.Normal(t, 1.5).expand((2,)).to_event(1),
    "MultivariateNormal": lambda t: dist.MultivariateNormal(t * TWO, jnp.eye(2)),
    "Gamma": lambda t: dist.Gamma(jnp.exp(t), 1.0),
    "vector of Gammas": lambda t: dist.Gamma(jnp.exp(t) * TWO, 1.0).to_event(1),
    "expanded Gamma": lambda t: dist.Gamma(jnp.exp(t), 1.0).expand((2,)).to_event(1),
    "Beta": lambda t: dist.Beta(jnp.exp(t), 1.0),
    "Dirichlet": lambda t: dist.Dirichlet(jnp.exp(t) * jnp.ones(3)),
    "LogNormal": lambda t: dist.LogNormal(t, 1.0),
    "Exponential": lambda t: dist.Exponential(jnp.exp(t)),
    "StudentT": lambda t: dist.StudentT(5.0, t, 1.0),
    "Uniform": lambda t: dist.Uniform(0.0, jnp.exp(t)),
    "TruncatedNormal": lambda t: dist.TruncatedNormal(t, 1.0, low=0.0),
    "HalfNormal": lambda t: dist.HalfNormal(jnp.exp(t)),
    "Poisson": lambda t: dist.Poisson(jnp.exp(t)),
    "Bernoulli": lambda t: dist.Bernoulli(logits=t),
    "vector of Bernoullis": lambda t: dist.Bernoulli(jax.nn.sigmoid(t) * TWO).to_event(1),
    "Categorical": lambda t: dist.Categorical(logits=t * THREE),
    "vector of Categoricals": lambda t: dist.Categorical(logits=t * THREE + jnp.zeros((2, 3))).to_event(1),
    "OneHotCategorical": lambda t: rgrad.OneHotCategorical(t * THREE),
    "mixture": lambda t: dist.MixtureSameFamily(dist.Categorical(jnp.array([0.3, 0.7])), dist.Normal(t * TWO, 1.0)),
    "transformed": lambda t: dist.TransformedDistribution(dist.Normal(t, 1.0), dist.transforms.ExpTransform()),
    "folded": lambda t: dist.FoldedDistribution(dist.Normal(t, 1.0)),
    "improper": lambda t: dist.ImproperUniform(dist.constraints.real, (), ()),
    "no Normals": lambda t: dist.Normal(t * jnp.ones(0), 1.0).to_event(1),
    "no Bernoullis": lambda t: dist.Bernoulli(logits=t * jnp.ones(0)).to_event(1),
    "Delta": lambda t: dist.Delta(t),
    "masked": lambda t: dist.Normal(t, 1.0).mask(True),
    "minimal": Minimal,
    "jax_random": lambda t: rgrad.jax_random(dist.Normal(t, 1.0)),
}
DRAWS = {"": lambda q: q, **{f.__name__: f for f in (rgrad.antithetic, rgrad.stratified, rgrad.quasi)}}
ONLY_BOUNDS = {f.__name__: f for f in (rgrad.vimco, rgrad.sticking_the_landing, rgrad.doubly_reparameterized)}
ESTIMATORS = {
    **{name: row.estimator for name, row in rgrad.ESTIMATORS.items() if name.rpartition("+")[2] not in DRAWS},
    "leave_pair_out": partial(rgrad.score_function, baseline=rgrad.leave_pair_out),
    "moving_average": partial(rgrad.score_function, baseline=rgrad.moving_average()),
    "baseline of 1": partial(rgrad.score_function, baseline=1.0),
    "own baseline": partial(rgrad.score_function, baseline=lambda values: jnp.zeros_like(values)),
    "relax": partial(rgrad.relax, surrogate=lambda x: jnp.sum(x)),
    "own estimator": lambda f, q, key, n: rgrad.score_function(f, q, key, n),
    **ONLY_BOUNDS,
}


def square(x):
    return jnp.sum(jnp.asarray(x, float) ** 2)


EXPECTATIONS = {
    "expect": lambda q, key, e: rgrad.expect(square, q, key, 4, e),
    "keyed": lambda q, key, e: rgrad.expect(lambda x, k: square(x) + jax.random.normal(k), q, key, 4, e, keyed=True),
    "elbo": lambda q, key, e: rgrad.elbo(lambda x: -square(x), q, key, 4, e),
    "exact entropy": lambda q, key, e: rgrad.elbo(lambda x: -square(x), q, key, 4, e, "exact"),
    "iwae": lambda q, key, e: rgrad.iwae(lambda x: -square(x), q, key, 2, 4, e),
}
PRODUCT = [
    combination
    for combination in itertools.product(DISTRIBUTIONS, DRAWS, ESTIMATORS, EXPECTATIONS)
    if combination[3] != "iwae"
    or not combination[1]
    or combination[2] == "score_function"  # one refusal for all others
]
CALLS = "|".join(
    {"baseline", "expect", "elbo", "iwae", "detach", "relax", "delta", "optimal", *ONLY_BOUNDS, *DRAWS} - {""}
    | {name.partition("+")[0] for name in rgrad.ESTIMATORS}
)
REFUSALS = (TypeError, ValueError, NotImplementedError, rgrad.NotApplicable)


def refusal(q, draws, estimator, expectation):
    """None if the derivative can be traced; otherwise the message. Any other exception is a crash."""

    def loss(t):
        return EXPECTATIONS[expectation](DRAWS[draws](DISTRIBUTIONS[q](t)), KEY, ESTIMATORS[estimator])

    try:
        value, slope = jax.eval_shape(jax.value_and_grad(loss), 0.3)
    except REFUSALS as error:
        return str(error)
    assert value.shape == slope.shape == ()
    return None


def check(combination):
    """The estimators named by a refusal must work. Returns 1 if the combination works."""
    q, draws, _, expectation = combination
    message = refusal(*combination)
    if message is None:
        return 1
    assert re.match(rf"({CALLS})\b", message), f"{combination}: {message!r} does not name the call"
    assert "\n" not in message, f"{combination}: {message!r}"
    assert not re.search(r"\bcannot reshape|object has no|0x[0-9a-f]{6}", message), f"{combination}: {message!r}"
    lacks = re.search(r"(?:map for|sampler for|rule for|relaxation of) (\w+) \(supported: ([\w ,]*)", message)
    assert not lacks or lacks[1] not in lacks[2].split(", "), f"{combination}: {message!r} contradicts itself"
    for other in advised(message):
        if other == "leave_pair_out" and refusal(q, draws, "score_function", expectation):
            continue  # a cure for the baseline alone
        failed = refusal(q, draws, other, expectation)
        assert failed is None, f"{combination}: {message!r} advises {other}, which is refused: {failed!r}"
    return 0


def advised(message):
    found = re.search(r"; use ((?:rgrad\.)?[a-z_]+(?:, (?:or )?[a-z_]+| or [a-z_]+)*)(?: |$|,)", message)
    names = re.findall(r"[a-z_]+", found[1].replace("rgrad.", "")) if found else []
    return [name for name in names if name in ESTIMATORS]


def test_sample_of_all_combinations():
    """About one in 250, in a fixed order."""
    order = np.random.default_rng(0).permutation(len(PRODUCT))[: len(PRODUCT) // 250]
    works = sum(check(PRODUCT[i]) for i in order)
    assert 0.1 * len(order) < works < 0.9 * len(order)


@pytest.mark.long
def test_all_combinations():
    works = sum(map(check, PRODUCT))
    assert 0.1 * len(PRODUCT) < works < 0.9 * len(PRODUCT)
