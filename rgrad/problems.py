"""Problems: `E[objective(params, x)]`, `x ~ distribution(params)`, at a point and with respect to some of its names."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.errors import NotApplicable
from rgrad.expectations.expectation import expect
from rgrad.protocols import Estimator, Problem

Point = dict[str, Array]


def expect_objective(problem: Problem, params: Mapping[str, Array], key: Array, n: int, estimator: Estimator) -> Array:
    """`rgrad.expect` of the problem's objective at `params`: a scalar, per call."""
    return expect(partial(problem.objective, params), problem.distribution(params), key, n, estimator)


def check_objective(problem: Problem, params: Mapping[str, Array]) -> None:
    """Raises what the objective itself raises for one sample, so that nobody takes that for an estimator's refusal."""

    def one(key: Array) -> Any:
        x = problem.distribution(params).sample(key, (1,))
        return problem.objective(params, jax.tree.map(lambda a: a[0], x))

    jax.eval_shape(one, jax.random.key(0))


def gradient(
    problem: Problem, point: Point, wrt: Sequence[str], key: Array, n: int, estimator: Estimator
) -> dict[str, Array]:
    """One estimate of the gradient from n samples: each name of `wrt` to an array of the parameter's shape, per call."""
    chosen = {name: point[name] for name in wrt}
    return jax.grad(lambda chosen: expect_objective(problem, {**point, **chosen}, key, n, estimator))(chosen)


def those_that_apply(
    gradients: Mapping[str, Callable[..., Any]], values: Mapping[str, Callable[..., Any]], *args: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Those of `gradients` that can be traced at `args`; and of the others, by name, why not.

    An estimator that does not apply says so (`rgrad.NotApplicable`). It does not apply either if its value can be traced and its
    gradient cannot: then f has no derivative (a `jax.pure_callback`). All else is a bug of the caller's, and is raised.

    Args:
        values: by the same names, what is differentiated.
    """
    kept, left_out = {}, {}
    for name, of in gradients.items():
        try:
            jax.eval_shape(of, *args)
            kept[name] = of
        except NotApplicable as error:
            left_out[name] = " ".join(str(error).split())
        except Exception as error:
            jax.eval_shape(values[name], *args)
            left_out[name] = f"the objective has no derivative: {' '.join(str(error).split())}"
    return kept, left_out


def point_of(problem: Problem, params: Mapping[str, Any] | None = None) -> Point:
    """The problem's parameters as arrays, those in `params` instead of its own.

    A number for a parameter that is a float becomes a float; one that is an integer by default (a count) stays one.

    Raises:
        ValueError: an unknown name, a value that is not finite, or a fraction for an integer.
    """
    own = dict(problem.params)
    for name in params or {}:
        if name not in own:
            raise ValueError(f"unknown parameter {name!r}; this problem has {', '.join(own)}")
    point = {}
    for name, default in own.items():
        value = np.asarray((params or {}).get(name, default))
        if not np.issubdtype(value.dtype, np.number) or not np.all(np.isfinite(value)):
            raise ValueError(f"parameter {name} = {value.tolist()} is no finite number; give one")
        whole = np.issubdtype(np.asarray(default).dtype, np.integer)
        if whole and not np.all(value == np.round(value)):
            raise ValueError(f"parameter {name} = {value.tolist()} must be an integer, as its default {default} is")
        point[name] = jnp.asarray(value, int if whole else float)
    return point


def names_to_differentiate(problem: Problem, point: Point, wrt: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names to differentiate: `wrt`, or the problem's own `wrt`, or every parameter.

    Raises:
        ValueError: an unknown name, a name given twice, or an integer parameter.
    """
    names = tuple(wrt or getattr(problem, "wrt", ()) or point)
    for name in names:
        if name not in point:
            raise ValueError(f"unknown parameter {name!r}; this problem has {', '.join(point)}")
        if not jnp.issubdtype(point[name].dtype, jnp.floating):
            others = ", ".join(other for other in point if jnp.issubdtype(point[other].dtype, jnp.floating)) or "none"
            raise ValueError(
                f"parameter {name} = {point[name]} is an integer and has no derivative; write it with a decimal "
                f"point where the problem defines it, or choose another (floats: {others})"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{' '.join(names)} names a parameter twice; name each once")
    return names


def labels_of(name: str, value: Any) -> list[str]:
    """`loc` for a number, `loc[0]`, `loc[1]` for an array."""
    shape = jnp.shape(value)
    return [f"{name}[{','.join(map(str, index))}]" if shape else name for index in np.ndindex(*shape)]
