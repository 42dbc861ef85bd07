"""`expect`: an expectation that `jax.grad` can differentiate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from rgrad.backend.chunks import chunked
from rgrad.backend.keys import check_key
from rgrad.backend.xla_flags import warn_if_wrong
from rgrad.distributions.draws import check_draw, draw
from rgrad.distributions.keyed import WithKey
from rgrad.distributions.others import as_distribution
from rgrad.estimators.opened import opened
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import estimator_of, naming_others
from rgrad.protocols import Distribution, Estimator, Objective

Aux = TypeVar("Aux")


@overload
def expect(
    f: Objective,
    q: Distribution,
    key: Array,
    n: int = 1,
    estimator: Estimator | str = reparameterized,
    *,
    keyed: bool = False,
    chunk: int | None = None,
    has_aux: Literal[False] = False,
) -> Array: ...


@overload
def expect(
    f: Callable[..., tuple[ArrayLike, Aux]],
    q: Distribution,
    key: Array,
    n: int = 1,
    estimator: Estimator | str = reparameterized,
    *,
    keyed: bool = False,
    chunk: int | None = None,
    has_aux: Literal[True],
) -> tuple[Array, Aux]: ...


def expect(
    f: Callable[..., Any],
    q: Distribution,
    key: Array,
    n: int = 1,
    estimator: Estimator | str = reparameterized,
    *,
    keyed: bool = False,
    chunk: int | None = None,
    has_aux: bool = False,
) -> Any:
    """An estimate of `E_q[f(x)]` from `n` samples, whose `jax.grad` is an estimate of the gradient of the expectation.

    The parameters enter through the closure. `f` may use them too: its own derivative is part of the estimate.
    Expectations can be added, nested (`keyed=True`) and vmapped.

    Args:
        f: maps one sample, of shape `q.event_shape`, to a scalar. `expect` does the batching.
        q: a `Distribution` of one sample, built from the parameters inside the function that is differentiated. A
            distribution of TFP, distrax, distreqx or FlowJAX is accepted too, and what `rgrad.distribution` returns.
        key: one PRNG key.
        n: the number of samples, a Python int.
        estimator: `rgrad.reparameterized`, `rgrad.score_function`, ..., or any function `(f, q, key, n) -> terms`; or a
            name of `rgrad.ESTIMATORS`, e.g. "score_function+leave_one_out".
        keyed: True if `f` needs randomness of its own. Then f is called as `f(x, key_i)`, with a different key for each
            sample. (If all samples shared one key, the variance would not fall with n. If a key were used twice, the
            estimate would be biased.)
        chunk: the number of samples for which f is evaluated at once. The backward pass evaluates f again. The estimate
            is the same, and the memory falls in proportion. None: all at once, with all intermediate results kept.
        has_aux: True if f returns `(value, aux)`, where aux is a pytree of numbers, e.g. of metrics.

    Returns:
        A scalar, per call: the mean of the estimator's terms. With `has_aux`, `(mean, aux)`, as `jax.grad(...,
        has_aux=True)` takes it: the same estimate of `E_q[aux]`, of the structure of one aux, without a derivative.

    Raises:
        TypeError: `q` is not a distribution, `f` or `estimator` is not callable, `key` is not a key, or what the
            estimator raises.
        ValueError: `chunk` is not a positive int, the terms do not have shape `(n,)`, or what the estimator raises.

    Example:
        >>> def loss(theta):
        ...     q = dist.Normal(theta, 1.0)
        ...     return rgrad.expect(lambda x: x**2, q, key, 10_000, rgrad.score_function)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 2 theta
        4.1
    """
    warn_if_wrong()
    q = as_distribution(q, "expect")
    check_draw(q, n, "expect")
    if not callable(f):
        raise TypeError(f"expect: f must be callable, got {type(f).__name__} {f!r}")
    estimator = estimator_of(estimator, "expect")
    check_key(key, "expect")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"expect: chunk must be None or a positive Python int, got {chunk!r}")
    f, q = opened(f, q, estimator)
    drawn: Any = WithKey(q) if keyed else q
    if keyed:
        f = _on_pairs(f)
    value = (lambda x: _pair(f(x))[0]) if has_aux else f
    within = (lambda f: f) if chunk is None else partial(chunked, most=chunk)
    with naming_others(q):
        mean = _mean(estimator, within(value), drawn, key, n)
        return (mean, _mean_of_aux(estimator, f, within, drawn, key, n)) if has_aux else mean


def _mean(estimator: Estimator, f: Objective, q: Any, key: Array, n: int) -> Array:
    terms = estimator(f, q, key, n)
    if getattr(terms, "shape", None) != (n,):
        raise ValueError(
            f"expect: the estimator returned {getattr(terms, 'shape', type(terms).__name__)}; it must return terms of "
            f"shape ({n},), one for each sample"
        )
    return terms.mean()


def _mean_of_aux(estimator: Estimator, f: Any, within: Any, q: Any, key: Array, n: int) -> Any:
    """The estimate of the expectation of each number in aux. All of them use the samples of the value."""
    aux = lambda x: jax.tree.map(lambda leaf: jnp.asarray(leaf, float), _pair(f(x))[1])
    first = lambda key: aux(jax.tree.map(lambda leaf: leaf[0], draw(q, key, 1, "expect")))
    flat, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(first, key)))
    entry = lambda i: _mean(estimator, within(lambda x: lax.stop_gradient(ravel_pytree(aux(x))[0][i])), q, key, n)
    return unravel(lax.stop_gradient(jax.vmap(entry)(jnp.arange(flat.size)))) if flat.size else unravel(flat)


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"expect: with has_aux=True, f must return (value, aux), got {type(found).__name__}")
    return found


def _on_pairs(f: Objective) -> Objective:
    return lambda pair: f(*pair)
