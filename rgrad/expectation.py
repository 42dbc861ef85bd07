"""`expect`: an expectation that `jax.grad` can differentiate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rgrad.draws import check_draw
from rgrad.estimators import reparameterized
from rgrad.protocols import Distribution, Estimator, Objective, Sample


def expect(
    f: Objective, q: Any, key: Array, n: int = 1, estimator: Estimator = reparameterized, *, keyed: bool = False
) -> Array:
    """An estimate of `E_q[f(x)]` from `n` samples, whose `jax.grad` is an estimate of the expectation's gradient.

        def loss(theta, key):
            return rgrad.expect(lambda x: x**2, dist.Normal(theta, 1.0), key, n=100, estimator=rgrad.score_function)

        jax.grad(loss)(2.0, key)

    The parameters reach it through the closure, so `f` may use them too, and its own derivative is part of the estimate.
    Expectations may be added, nested (`keyed=True`) and vmapped.

    Args:
        f: one sample, of shape `q.event_shape`, to a scalar. Batching is done here.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated.
        key: one PRNG key.
        n: how many samples, a Python int.
        estimator: `rgrad.reparameterized`, `rgrad.score_function`, ..., or any function `(f, q, key, n) -> terms`.
        keyed: `f` needs randomness of its own and is called as `f(x, key_i)`, with one key for each sample. (A key that
            all samples share leaves a variance that does not fall with n; a key used twice, a bias.)

    Returns:
        A scalar, the mean of the estimator's terms: per call.

    Raises:
        TypeError, ValueError: what the estimator raises, and for terms that are not of shape `(n,)`.
    """
    check_draw(q, n, "expect")
    if not hasattr(key, "dtype"):
        raise TypeError(f"expect: key = {key!r} is no PRNG key; make one with jax.random.key(0)")
    # A legacy key is two words of uint32; a new-style one has no shape.
    if key.shape != (() if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.PRNGKey(0).shape):
        raise ValueError(f"expect: key has shape {key.shape}; give one key, and vmap over several")
    terms = estimator(_on_pairs(f), WithKey(q), key, n) if keyed else estimator(f, q, key, n)
    if getattr(terms, "shape", None) != (n,):
        raise ValueError(
            f"expect: the estimator returned {getattr(terms, 'shape', type(terms).__name__)}; it must return terms of "
            f"shape ({n},), one for each sample"
        )
    return terms.mean()


class WithKey(NamedTuple):
    """`q` and an independent PRNG key, as one distribution of the pair: what `keyed=True` takes the expectation over.

    So every estimator is keyed as it is, a user's own included.
    """

    base: Distribution

    @property
    def has_rsample(self) -> bool:
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        return getattr(self.base, "support", ())

    @property
    def base_dist(self) -> Distribution:
        return self.base

    def sample(self, key: Array, shape: tuple[int, ...]) -> tuple[Sample, Array]:
        for_x, for_f = jax.random.split(key)
        return self.base.sample(for_x, shape), jax.random.split(for_f, shape)

    def rsample(self, key: Array, shape: tuple[int, ...]) -> tuple[Sample, Array]:
        for_x, for_f = jax.random.split(key)
        return self.base.rsample(for_x, shape), jax.random.split(for_f, shape)

    def log_prob(self, value: tuple[Sample, Array]) -> Array:
        return self.base.log_prob(value[0])


def _on_pairs(f: Objective) -> Objective:
    return lambda pair: f(*pair)
