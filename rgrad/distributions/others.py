"""`as_distribution`: what a user brings becomes a `Distribution`, once, at the door.

An object is known by what it has. No other library is imported. Inside the house there is only the protocol.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from rgrad.distributions.adapted import (
    DRAWS,
    Adapted,
    Draws,
    TwoFunctions,
    event_shape_of,
    wrong_density,
    wrong_samples,
)
from rgrad.distributions.extent import extent
from rgrad.distributions.log_density import Wrapper
from rgrad.distributions.twins import DISTRAX, DISTREQX, FLOWJAX, twin_of
from rgrad.distributions.wrappers import SeenAs
from rgrad.errors import NotApplicable
from rgrad.protocols import Sample

MEMBERS = ("sample", "log_prob", "has_rsample")
UNKNOWN = object()
NUMBER = 4  # of the samples whose shape is checked
# A `sample` with one of these arguments and no other draws without a key.
SHAPES = {"sample_shape", "shape", "size", "n", "num_samples", "sample_n"}
# Distributions that are reparameterized if those inside them are: the class, and the attribute that holds them.
COMPOSED = (
    (FLOWJAX, "AbstractTransformed", "base_dist"),
    (DISTRAX, "Transformed", "distribution"),
    (DISTRAX, "Independent", "distribution"),
    (DISTRAX, "Joint", "distributions"),
    (DISTREQX, "AbstractTransformed", "distribution"),
    (DISTREQX, "Independent", "distribution"),
)
MADE_OF_TWO = "rgrad.distribution(sample, q.log_prob, reparameterized=True, event_shape=...)"


def as_distribution(q: Any, caller: str) -> Any:
    """`q` as a `Distribution`: `q` itself if it is one, otherwise its twin in NumPyro, otherwise an adapter around it.

    These are accepted, by the arguments of `sample`:

    - `sample(seed=, sample_shape=)`: TFP and distrax;
    - `sample(key, shape)`: FlowJAX and NumPyro;
    - `sample(key)`: distreqx.

    Samples are differentiated only if the object says so (`has_rsample`, TFP's `reparameterization_type`), or its class
    is known to be differentiable, and its samples are floats.

    Raises:
        TypeError: `q` is a class, or not a distribution, or its `sample` takes no key.
        ValueError: `q` has a batch shape, is conditional, or the shape of its samples or of its log_prob is wrong.
    """
    if isinstance(q, dist.Distribution | Wrapper) or type(q).__module__.startswith("rgrad."):
        return q
    draws = _draws_of(q, caller)
    _refuse_batch(q, caller)
    if (twin := twin_of(q)) is not None:
        return _seen(twin, q, caller)
    if hasattr(q, "has_rsample") and draws is DRAWS["key, shape"]:
        return q  # it has the members of the protocol
    drawn = _shapes(partial(_drawn, draws), q, caller)
    summed = _check_shapes(q, drawn, type(q).__name__, event_shape_of(q), caller)
    differentiable, reason = _is_reparameterized(q, drawn)
    shape = drawn.shape[1:] if isinstance(drawn, jax.ShapeDtypeStruct) else None
    found, bounds = extent(q), []
    if found.hidden:
        bounds = jax.make_jaxpr(lambda key: draws(q, key, (1,)))(jax.random.key(0)).consts
    bounds = [x for x in [*found.bounds, *bounds] if isinstance(x, Array) and jnp.issubdtype(x.dtype, jnp.inexact)]
    return Adapted(q, tuple(bounds), draws, differentiable, shape, summed, reason)


def distribution(
    sample: Callable[..., Sample],
    log_prob: Callable[[Any], Array],
    *,
    reparameterized: bool,
    event_shape: tuple[int, ...] = (),
) -> Adapted:
    """A distribution made of two functions, for every function of rgrad that takes a `q`.

    The parameters enter through the closures. The support must not depend on a parameter that is differentiated with
    the score function.

    Args:
        sample: `sample(key, shape)` returns independent samples, of shape `shape + event_shape`. Or `sample(key)`
            returns one sample.
        log_prob: the normalised log density of one sample, shape `()`. If it has the shape of the event, it is summed.
        reparameterized: True if samples are differentiable functions of the parameters, with the same noise for all
            parameters: then the derivative of `f(x)` is an unbiased estimate. False for discrete samples, and if a
            sample is accepted or rejected at random.
        event_shape: the shape of one sample.

    Raises:
        TypeError: an argument is not callable; `sample` takes no key; `reparameterized` is not a bool, or is True for
            samples of integers.
        ValueError: samples do not have shape `event_shape`, or log_prob returns another shape.

    Example:
        >>> def loss(scale):
        ...     sample = lambda key, shape: scale * jax.random.exponential(key, shape)
        ...     log_prob = lambda x: -x / scale - jnp.log(scale)
        ...     q = rgrad.distribution(sample, log_prob, reparameterized=True)
        ...     return rgrad.expect(lambda x: x, q, key, 10_000)
        >>> print(f"{jax.jit(jax.grad(loss))(2.0):.1f}")  # the truth is 1, because E[x] = scale
        1.0
    """
    for name, function in (("sample", sample), ("log_prob", log_prob)):
        if not callable(function):
            raise TypeError(f"distribution: {name} must be callable, got {type(function).__name__} {function!r}")
    if not isinstance(reparameterized, bool):
        raise TypeError(f"distribution: reparameterized must be True or False, got {reparameterized!r}")
    q = TwoFunctions(sample, log_prob)
    draws = _draws_of(q, "distribution")
    drawn = _shapes(partial(_drawn, draws), q, "distribution")
    if reparameterized and (kind := _not_float(drawn)) is not None:
        raise TypeError(
            f"distribution: reparameterized is True, but the samples are {kind} and have no derivative; pass "
            "reparameterized=False"
        )
    summed = _check_shapes(q, drawn, "q", tuple(event_shape), "distribution")
    return Adapted(q, (), draws, reparameterized, tuple(event_shape), summed, "it was made with reparameterized=False")


def _draws_of(q: Any, caller: str) -> Draws:
    """How its `sample` is called."""
    kind = type(q).__name__
    if isinstance(q, type):
        raise TypeError(f"{caller}: {q.__name__} is a class; give it its parameters, as in Normal(0.0, 1.0)")
    if hasattr(q, "rvs") and not hasattr(q, "log_prob"):
        raise TypeError(
            f"{caller}: q is a distribution of SciPy ({kind}), which draws outside of JAX and has no derivative; use the "
            "same one of numpyro.distributions, or rgrad.distribution(sample, log_prob, reparameterized=...)"
        )
    missing = [name for name in MEMBERS[:2] if not callable(getattr(q, name, None))]
    if missing:
        missing += [] if hasattr(q, "has_rsample") else ["has_rsample"]
        raise TypeError(
            f"{caller}: q must be a distribution, got {kind}, which has no {', '.join(missing)}; give e.g. "
            "numpyro.distributions.Normal(loc, scale), or rgrad.distribution(sample, log_prob, reparameterized=...)"
        )
    try:
        parameters = list(inspect.signature(q.sample).parameters.values())
    except (TypeError, ValueError):  # some callables have no signature
        return DRAWS["key, shape"]
    named = {p.name for p in parameters} | (
        {"seed", "sample_shape"} if hasattr(q, "reparameterization_type") else set()
    )
    if {"seed", "sample_shape"} <= named:
        return DRAWS["seed, sample_shape"]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    several = len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if not several and (not positional or positional[0].name in SHAPES):
        raise TypeError(
            f"{caller}: {kind}.sample takes ({', '.join(p.name for p in parameters)}) and no PRNG key, so it draws outside "
            "of JAX and has no derivative; use the same one of numpyro.distributions, or rgrad.distribution(sample, "
            "log_prob, reparameterized=...), whose sample takes (key, shape)"
        )
    return DRAWS["key, shape"] if several else DRAWS["key"]


def _refuse_batch(q: Any, caller: str) -> None:
    kind = type(q).__name__
    if callable(getattr(q, "sample_distributions", None)):  # TFP
        raise TypeError(
            f"{caller}: {kind} keeps the distributions of its first evaluation, so it cannot be traced twice; write it as a "
            "program, rgrad.expect_program, with one draw for each part"
        )
    batch = tuple(getattr(q, "batch_shape", ()) or ())
    if not hasattr(q, "has_rsample") and batch != ():
        raise ValueError(
            f"{caller}: {kind} has batch_shape {batch}, but q must describe one sample; make the batch one event "
            f"with Independent(q, reinterpreted_batch_ndims={len(batch)}), or vmap over the parameters and build q inside "
            "the mapped function"
        )
    if getattr(q, "cond_shape", None) is not None:
        raise ValueError(
            f"{caller}: {kind} is conditional on an array of shape {q.cond_shape}, which is not given; put it into "
            "two functions, rgrad.distribution(sample, log_prob, reparameterized=..., event_shape=q.shape)"
        )


def _seen(twin: Any, q: Any, caller: str) -> Any:
    """The twin, with samples of the dtype that the library of `q` draws."""
    drawn = (
        jnp.dtype(q.dtype) if hasattr(q, "dtype") else _shapes(lambda q: q.sample(jax.random.key(0)), q, caller).dtype
    )
    own = jax.eval_shape(lambda: twin.sample(jax.random.key(0), ())).dtype
    return twin if own == drawn else SeenAs(twin, drawn)


def _drawn(draws: Draws, q: Any) -> Any:
    return draws(q, jax.random.key(0), (NUMBER,))


def _shapes(make: Callable[[Any], Any], q: Any, caller: str) -> Any:
    """The shapes and dtypes of what `make(q)` returns. `UNKNOWN` if it can only be run, or is not implemented."""
    try:
        return jax.eval_shape(lambda: make(q))
    except (jax.errors.JAXTypeError, NotImplementedError, NotApplicable):
        return UNKNOWN
    except Exception as error:
        error.add_note(f"rgrad: {caller} called this method of {type(q).__name__} to see what it returns.")
        raise


def _check_shapes(q: Any, drawn: Any, name: str, event: tuple[int, ...] | None, caller: str) -> bool:
    """Whether log_prob returns one number for each coordinate. Raises an error if a shape is wrong."""
    if drawn is UNKNOWN:
        return False
    if (wrong := wrong_samples(name, drawn, (NUMBER,), event)) is not None:
        raise ValueError(f"{caller}: {wrong}")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), drawn)
    log_p = _shapes(lambda q: jax.eval_shape(q.log_prob, one), q, caller)
    shape = getattr(log_p, "shape", None)
    if log_p is UNKNOWN or shape == ():
        return False
    if not isinstance(one, jax.ShapeDtypeStruct) or shape != one.shape:
        raise ValueError(f"{caller}: {wrong_density(name, log_p)}")
    return True


def _not_float(drawn: Any) -> Any:
    """The dtype of samples that have no derivative. None if all are floats."""
    leaves = [] if drawn is UNKNOWN else jax.tree.leaves(drawn)
    kinds = [x.dtype for x in leaves if not jnp.issubdtype(x.dtype, jnp.floating)]
    return kinds[0] if kinds else None


def _is_reparameterized(q: Any, drawn: Any) -> tuple[bool, str]:
    """Whether samples are differentiable in the parameters, and why not."""
    if (kind := _not_float(drawn)) is not None:
        return False, f"its samples are {kind}"
    if hasattr(q, "has_rsample"):
        return bool(q.has_rsample), "its has_rsample is False"
    if hasattr(q, "reparameterization_type"):
        said = [str(flag) for flag in jax.tree.leaves(q.reparameterization_type)]
        full = bool(said) and all("FULLY_REPARAMETERIZED" in flag for flag in said)
        return full, "its reparameterization_type is not FULLY_REPARAMETERIZED"
    for library, name, holder in COMPOSED:
        if _is_of(type(q), library, name):
            inner = getattr(q, holder)
            parts = jax.tree.leaves(inner, is_leaf=lambda part: hasattr(part, "log_prob"))
            not_so = next((part for part in parts if not _draws_differentiably(part)), None)
            return not_so is None, "" if not_so is None else f"rgrad cannot differentiate its {type(not_so).__name__}"
    return False, f"rgrad does not know whether its samples can be differentiated; if they can, give {MADE_OF_TWO}"


def _draws_differentiably(part: Any) -> bool:
    """The same for a part of another distribution, which may have a batch shape, and is drawn by its own library."""
    twin = twin_of(part)
    return bool(twin.has_rsample) if twin is not None else _is_reparameterized(part, UNKNOWN)[0]


def _is_of(kind: type, library: str, name: str) -> bool:
    """Whether a class is one of the library, or inherits the way in which that one draws."""
    if not any(c.__module__.startswith(library) and c.__name__ == name for c in kind.__mro__):
        return False
    methods = [getattr(kind, method, None) for method in ("sample", "_sample", "_sample_n")]
    return all(method is None or method.__module__.startswith(library) for method in methods)
