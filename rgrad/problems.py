"""Problems, `E[objective(params, x)]` with `x ~ distribution(params)`: their values, gradients and parameters.

The parameters of a user's problem are any pytree of numbers. `named` turns it into a problem whose parameters are a flat
dict. Everything else works on that: a `Point` is a dict of arrays by name.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rgrad.distributions.draws import draw
from rgrad.distributions.others import as_distribution
from rgrad.errors import NotApplicable
from rgrad.expectations.expectation import expect
from rgrad.parameters import all_in, by_name, flattened, numbers
from rgrad.protocols import Estimator, Objective, Params, Problem

Point = dict[str, Array]


class OfProblem(NamedTuple):
    """A problem made of two functions, whose parameters have names."""

    distribution: Callable[[Any], Any]
    objective: Objective
    params: Mapping[str, Any]
    wrt: Sequence[str] = ()
    origin: Any = None
    """The user's own problem."""


def named(problem: Problem, caller: str = "") -> Problem:
    """The problem itself if its `params` is a flat dict; otherwise the same problem with its parameters in such a dict.

    The functions of the user's problem still receive their own structure. See `flattened` for the names.

    Raises:
        TypeError: it is not a problem.
        ValueError: what `flattened` raises.
    """
    for part in ("distribution", "objective", "params"):
        if not hasattr(problem, part):
            raise TypeError(
                f"{caller or 'named'}: a problem has distribution(params), objective(params, x) and params; "
                f"{type(problem).__name__} {reprlib.repr(problem)} has no {part}"
            )
    params, rebuild = flattened(problem.params, caller)
    if rebuild is None:
        return problem
    return OfProblem(
        lambda point: problem.distribution(rebuild(point)),
        lambda point, x: problem.objective(rebuild(point), x),
        params,
        getattr(problem, "wrt", ()),
        problem,
    )


def expect_objective(problem: Problem, params: Mapping[str, Array], key: Array, n: int, estimator: Estimator) -> Array:
    """An estimate of the problem's expected objective at `params`, by one call of `rgrad.expect`: a scalar."""
    return expect(partial(problem.objective, params), problem.distribution(params), key, n, estimator)


def check_objective(problem: Problem, params: Mapping[str, Array], caller: str) -> None:
    """Traces the objective for one sample, so that its own errors are not blamed on an estimator.

    Raises:
        ValueError: the sample has the wrong shape.
    """

    def one(key: Array) -> Any:
        q = as_distribution(problem.distribution(params), caller)
        return problem.objective(params, jax.tree.map(lambda a: a[0], draw(q, key, 1, caller)))

    jax.eval_shape(one, jax.random.key(0))


def gradient(
    problem: Problem, point: Point, wrt: Sequence[str], key: Array, n: int, estimator: Estimator
) -> dict[str, Array]:
    """One gradient estimate, from n samples: a dict from each name in `wrt` to an array of that parameter's shape."""
    chosen = {name: point[name] for name in wrt}
    return jax.grad(lambda chosen: expect_objective(problem, {**point, **chosen}, key, n, estimator))(chosen)


def those_that_apply(
    gradients: Mapping[str, Callable[..., Any]], values: Mapping[str, Callable[..., Any]], *args: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Those of `gradients` that can be traced at `args`, and the reasons why the others cannot, by name.

    An estimator that does not apply raises `rgrad.NotApplicable`. An estimator whose value can be traced but not its
    gradient does not apply either: f has no derivative, e.g. because it is a `jax.pure_callback`. Every other error is
    a bug in the caller's code, and is raised.

    Args:
        values: the functions that `gradients` differentiate, under the same names.
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


def point_of(problem: Problem, params: Params | None = None, caller: str = "") -> Point:
    """The parameters of a problem that is `named`, as arrays. Values in `params` replace the problem's own.

    A number becomes a float if the default is a float. It stays an integer if the default is an integer, e.g. a count.

    Raises:
        ValueError: a name is unknown, a value is not finite, or an integer parameter is given a fraction.
    """
    own, where = dict(problem.params), f"{caller}: " if caller else ""
    given, point = by_name(params, own, caller), {}
    for name, default in own.items():
        value = numbers(given.get(name, default), f"{where}parameter {name}")
        if np.iscomplexobj(value):
            raise ValueError(f"{where}parameter {name} is complex; give its two parts as two real parameters")
        if value.size == 0:
            raise ValueError(f"{where}parameter {name} is an empty array; give at least one number")
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{where}parameter {name} = {value.tolist()} is not finite; give finite numbers")
        whole = np.issubdtype(np.asarray(default).dtype, np.integer)
        if whole and not np.all(value == np.round(value)):
            raise ValueError(
                f"{where}parameter {name} = {value.tolist()} must be an integer, like its default {default}"
            )
        dtype = jax.dtypes.canonicalize_dtype(int if whole else float)
        if np.any(np.abs(value) > (jnp.iinfo(dtype) if whole else jnp.finfo(dtype)).max):
            raise ValueError(
                f"{where}parameter {name} = {value.tolist()} is too large for {dtype}; give smaller numbers, or use 64 bits"
            )
        point[name] = jnp.asarray(value, int if whole else float)
    return point


def names_to_differentiate(
    problem: Problem, point: Point, wrt: Sequence[str] | None = None, caller: str = ""
) -> tuple[str, ...]:
    """The names of the parameters to differentiate: `wrt`, or the problem's own `wrt`, or every parameter.

    The name of a container stands for all parameters in it, e.g. `q` for `q.loc` and `q.scale`.

    Raises:
        ValueError: a name is unknown or given twice, or its parameter is an integer.
    """
    where = f"{caller}: " if caller else ""
    names = all_in(wrt or getattr(problem, "wrt", ()) or tuple(point), point)
    for name in names:
        if name not in point:
            raise ValueError(f"{where}unknown parameter {name!r}; this problem has {', '.join(point)}")
        if not jnp.issubdtype(point[name].dtype, jnp.floating):
            others = ", ".join(other for other in point if jnp.issubdtype(point[other].dtype, jnp.floating)) or "none"
            raise ValueError(
                f"{where}parameter {name} = {point[name]} is an integer and has no derivative; give it a decimal point in "
                f"the definition of the problem, or choose another parameter (floats: {others})"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{where}wrt = {' '.join(names)} names a parameter twice; name each parameter once")
    return names


def labels_of(name: str, value: Any) -> list[str]:
    """The labels of a parameter's coordinates: `loc` for a number, and `loc[0]`, `loc[1]`, ... for an array."""
    shape = jnp.shape(value)
    return [f"{name}[{','.join(map(str, index))}]" if shape else name for index in np.ndindex(*shape)]
