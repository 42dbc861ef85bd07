"""`expect`: an expectation that `jax.grad` can differentiate."""

from typing import Any

from jax import Array

from rgrad.backend.keys import check_key
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.distributions.draws import check_draw
from rgrad.distributions.keyed import WithKey
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import naming_others
from rgrad.protocols import Estimator, Objective


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
    warn_if_wrong()
    check_draw(q, n, "expect")
    for name, given in (("f", f), ("estimator", estimator)):
        if not callable(given):
            raise TypeError(
                f"expect: {name} = {given!r} is no function; give one, as rgrad.score_function for the estimator"
            )
    check_key(key, "expect")
    with naming_others(q):
        terms = estimator(_on_pairs(f), WithKey(q), key, n) if keyed else estimator(f, q, key, n)
    if getattr(terms, "shape", None) != (n,):
        raise ValueError(
            f"expect: the estimator returned {getattr(terms, 'shape', type(terms).__name__)}; it must return terms of "
            f"shape ({n},), one for each sample"
        )
    return terms.mean()


def _on_pairs(f: Objective) -> Objective:
    return lambda pair: f(*pair)
