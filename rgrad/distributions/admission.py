"""Checks of `q` before anything is drawn from it: its density must be the normalised density of its own samples.

`rgrad.distributions.draws.check_draw` calls `check_density` once. It refuses what is visible at trace time. Some faults
are visible only in the values, e.g. a sample outside the support. Such a sample becomes nan (`nan_outside_support`),
and `rgrad.backend.not_finite` gives the cause when draws are collected.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax

from rgrad.errors import NoDerivative

TRUNCATED = (dist.LeftTruncatedDistribution, dist.RightTruncatedDistribution, dist.TwoSidedTruncatedDistribution)


def check_density(q: Any, name: str, caller: str) -> None:
    """Raises an error if `q` is not the normalised density of its own samples, as far as the trace shows.

    Raises:
        ValueError: any part of `q` has a mask, a factor or an improper density; a `Delta` has a density; or the
            shape of a parameter does not fit the batch shape of `q`.
    """
    for part in parts(q):
        if isinstance(part, dist.MaskedDistribution) and not _is_known(part._mask, True):
            raise ValueError(
                f"{caller}: {name} is masked. A mask removes the density but not the sample: log_prob is 0, and "
                "expectations and gradients are wrong. Give the distribution without .mask(...) and put the mask into "
                "f (only a mask that is known to be all True is accepted)"
            )
        if isinstance(part, dist.Unit | dist.ImproperUniform):
            raise ValueError(
                f"{caller}: {type(part).__name__} is not a normalised density that can be sampled; add its log "
                "density to f, and take the expectation over a proper distribution"
            )
        censored = [part.__dict__[name] for name in ("censored", "left_censored", "right_censored") if name in vars(part)] if (
            type(part).__name__.endswith("CensoredDistribution")) else []  # fmt: skip
        if type(part).__name__ == "IntervalCensoredDistribution" or not all(_is_known(c, False) for c in censored):
            raise ValueError(
                f"{caller}: {type(part).__name__}.log_prob is the likelihood of an observation, not the density of its "
                "samples; give the distribution itself, and put the likelihood into f"
            )
        if (
            isinstance(part, dist.TransformedDistribution)
            and type(part).log_prob is dist.TransformedDistribution.log_prob
            and any(isinstance(t, dist.transforms.AbsTransform) for t in _transforms(part))
        ):
            raise ValueError(
                f"{caller}: {name} goes through AbsTransform, which maps two points to one image, and its log_prob "
                "counts only one of them; give e.g. HalfNormal, or FoldedDistribution without further transforms"
            )
        if isinstance(part, dist.TransformedDistribution) and (range_of := _power_of(part)) is not None:
            raise ValueError(
                f"{caller}: {name} goes through PowerTransform, which is for positive numbers, but gets {range_of}; its "
                "log_prob counts only the positive root. Give a distribution of positive numbers (e.g. Chi2 or Gamma "
                "for the square of a Normal), or put the power into f"
            )
        if isinstance(part, dist.Delta) and not _is_known(part.log_density, 0.0):
            raise ValueError(
                f"{caller}: Delta has log_density = {part.log_density}, so it is not a probability; leave "
                "log_density at 0, and multiply f by the weight"
            )
        if (ends := _reversed_ends(part)) is not None:
            raise ValueError(
                f"{caller}: the support of {name} is empty: it goes from {ends}; give the smaller end first"
            )
        if (full := _not_lower(part)) is not None:
            raise ValueError(
                f"{caller}: {full} of {name} is not lower triangular. Samples would use all of it, and log_prob only the "
                "lower triangle; give jnp.tril(...), or any invertible matrix to rgrad.location_scale"
            )
        if (misfit := _misfit(part)) is not None:
            raise ValueError(
                f"{caller}: {name} has batch_shape {part.batch_shape}, but {misfit}. This happens if q was built "
                "inside a vmap (or tree.map) and used outside of it; build q inside the mapped function"
            )


def _reversed_ends(q: Any) -> str | None:
    """The ends of the support of a NumPyro distribution, as `3 to 1`, if they are known and the first is not below the last.

    NumPyro does not check them, and draws between them. The two ends of a range of integers may be equal.
    """
    if not isinstance(q, dist.Uniform | dist.DiscreteUniform | dist.TwoSidedTruncatedDistribution):
        return None
    low, high = (np.asarray(end) if not isinstance(end, jax.core.Tracer) else None for end in (q.low, q.high))
    if low is None or high is None:
        return None
    wrong = low > high if isinstance(q, dist.DiscreteUniform) else low >= high
    if not np.any(wrong):
        return None
    low, high = (np.broadcast_to(end, wrong.shape)[wrong][0] for end in (low, high))
    return f"{low:g} to {high:g}"


def _transforms(q: Any) -> Iterator[Any]:
    """Yields the transforms of `q`, with composed ones taken apart."""
    for transform in q.transforms:
        yield from getattr(transform, "parts", [transform])


def _power_of(q: Any) -> str | None:
    """The range of the numbers that a `PowerTransform` of `q` gets, if some are known to be negative; None otherwise."""
    support = getattr(q.base_dist, "support", None)
    for transform in _transforms(q):
        support = getattr(support, "base_constraint", support)
        low: Any = getattr(support, "lower_bound", -np.inf if support is dist.constraints.real else None)
        known = low is not None and not isinstance(low, jax.core.Tracer)
        if isinstance(transform, dist.transforms.PowerTransform) and known and np.any(np.asarray(low) < 0):
            return "all real numbers" if np.all(np.isinf(low)) else f"numbers from {np.min(low):.3g} on"
        # The codomain of an AffineTransform does not tell where it moves the numbers of a smaller domain.
        moved = isinstance(transform, dist.transforms.AffineTransform) and support is not dist.constraints.real
        support = None if moved else transform.codomain
    return None


def parts(q: Any) -> Iterator[Any]:
    """Yields `q` and all distributions inside it."""
    yield q
    for inner in _children(q).values():
        for part in inner if isinstance(inner, list | tuple) else [inner]:
            yield from parts(part)


def rebuilt(q: Any, rule: Any) -> Any:
    """`q` with each part replaced by `rule(part)`, innermost first. It is `q` itself if nothing changes."""
    new = {}
    for name, inner in _children(q).items():
        if isinstance(inner, list | tuple) and not hasattr(inner, "_replace"):  # this package's own have it
            each = [rebuilt(part, rule) for part in inner]
            if any(a is not b for a, b in zip(each, inner, strict=True)):
                new[name] = type(inner)(each)
        elif (part := rebuilt(inner, rule)) is not inner:
            new[name] = part
    if not new:
        return rule(q)
    return rule(q._replace(**new) if hasattr(q, "_replace") else changed(q, **new))


def changed(q: Any, **attributes: Any) -> Any:
    """A copy of a NumPyro distribution with other attributes, without cached values computed from the old ones."""
    new = object.__new__(type(q))
    new.__dict__.update(given(q) | attributes)
    return new


def given(q: Any) -> dict[str, Any]:
    """The attributes of a NumPyro distribution, without cached values computed from others."""
    lazy = {name for name in vars(q) if type(getattr(type(q), name, None)).__name__ == "lazy_property"}
    return {name: value for name, value in vars(q).items() if name not in lazy}


def _children(q: Any) -> dict[str, Any]:
    """The attributes of `q` that hold distributions: any attribute of NumPyro's, `base` of this package's own."""
    if isinstance(q, dist.Distribution):
        return {name: value for name, value in vars(q).items() if _is_made_of_distributions(value)}
    return {"base": q.base} if hasattr(q, "_replace") and isinstance(getattr(q, "base", None), _BASES) else {}


_BASES = (dist.Distribution, tuple)


def _is_made_of_distributions(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(part, dist.Distribution) for part in value)
    return isinstance(value, dist.Distribution)


def _is_known(value: Any, wanted: float | bool) -> bool:
    """Whether `value` is known at trace time and equals `wanted` everywhere."""
    return not isinstance(value, jax.core.Tracer) and bool(np.all(np.asarray(value) == wanted))


def _not_lower(q: Any) -> str | None:
    """The name of a parameter that must be lower triangular, and is known not to be; None otherwise."""
    if not isinstance(q, dist.Distribution):
        return None
    lower = dist.constraints.lower_cholesky
    given = {name: vars(q).get(name) for name, constraint in q.arg_constraints.items() if constraint is lower}
    for transform in getattr(q, "transforms", ()):
        if isinstance(transform, dist.transforms.LowerCholeskyAffine):
            given["scale_tril"] = transform.scale_tril
    for name, matrix in given.items():
        if matrix is not None and not isinstance(matrix, jax.core.Tracer) and np.any(np.triu(np.asarray(matrix), 1)):
            return name
    return None


def _misfit(q: Any) -> str | None:
    """A description of the parameter that does not broadcast to the batch shape of `q`. None if all do."""
    if not isinstance(q, dist.Distribution):
        return None
    for name, constraint in q.arg_constraints.items():
        value: Any = vars(q).get(name)
        try:
            size = constraint.event_dim
        except NotImplementedError:  # the constraint of a Delta has no event_dim
            continue
        # Some classes declare a vector constraint for a matrix. So if the constraint has an event, the parameter is
        # only checked if it has more axes than q.
        if not hasattr(value, "shape") or (size > 0 and value.ndim <= len(q.shape())):
            continue
        if not _broadcasts(value.shape[: max(value.ndim - size, 0)], q.batch_shape):
            return f"its parameter {name} has shape {value.shape}"
    for transform in getattr(q, "transforms", ()):
        for name in ("loc", "scale"):
            moved: Any = getattr(transform, name, None)
            if isinstance(transform, dist.transforms.AffineTransform) and not _broadcasts(jnp.shape(moved), q.shape()):
                return f"the {name} of its AffineTransform has shape {jnp.shape(moved)}"
    return None


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return bool(np.broadcast_shapes(shape, to) == tuple(to))
    except ValueError:
        return False


def normalised(q: Any, for_log: bool = False) -> Any:
    """`q` with probabilities that sum to 1: those of any Categorical or Multinomial are divided by their sum.

    NumPyro samples from `probs / sum(probs)`, but its `log_prob` is `log(probs)`. Here the value and all derivatives
    follow the samples. If the probs sum to 1, the derivative of `E[f(x)]` with respect to `probs[k]` is
    `f(k) - E[f(x)]`, not `f(k)`. The two agree in every direction that keeps the sum at 1.
    """
    return rebuilt(q, partial(_with_normalised_probs, for_log=for_log))


def _with_normalised_probs(q: Any, for_log: bool) -> Any:
    if isinstance(q, dist.CategoricalProbs | dist.MultinomialProbs):
        probs = jnp.asarray(q.probs)
        shares = probs / probs.sum(-1, keepdims=True)
        # The logarithm of 0 has a derivative of nan in NumPyro 0.21, which the sum would pass on to all other classes.
        return changed(q, probs=jnp.where(probs > 0, shares, 0.0) if for_log else shares)
    return q


def check_differentiable(x: Any, name: str, caller: str) -> None:
    """Raises an error if a sample consists of integers. They have no derivative, whatever `has_rsample` says.

    NumPyro's default for `has_rsample` is True in a class without `arg_constraints`.
    """
    kinds = [leaf.dtype for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == bool]
    if kinds:
        raise NoDerivative(
            f"{caller}: {name}.has_rsample is True, but its samples are {kinds[0]} and have no derivative",
            "set has_rsample = False in the class, and use score_function",
        )


def nan_outside_support(q: Any, x: Any) -> Any:
    """The samples x, with nan for those that lie outside the support of `q` by more than rounding.

    The support must be an interval. Only distributions from outside NumPyro are checked, and NumPyro's truncated ones,
    whose samples in the tail may be rounded to a point outside.
    """
    inner = q
    while isinstance(inner, dist.Independent | dist.ExpandedDistribution):
        inner = inner.base_dist
    support = getattr(inner, "support", None)
    theirs = type(inner).__module__.startswith("numpyro.")
    if (
        (theirs and "Truncated" not in type(inner).__name__)
        or not isinstance(x, Array)
        or not jnp.issubdtype(x.dtype, jnp.floating)
    ):
        return x
    support = getattr(support, "base_constraint", support)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    bad = ~jnp.isfinite(lax.stop_gradient(x)) if theirs else jnp.zeros((), bool)
    for bound, sign in ((low, 1), (high, -1)):
        if bound is not None:
            bound = lax.stop_gradient(jnp.asarray(bound, x.dtype))
            bad = bad | (sign * (lax.stop_gradient(x) - bound) < -1e-4 * (1 + jnp.abs(bound)))
    return x if bad.ndim == 0 else x * jnp.where(bad, jnp.nan, 1)  # a factor, so that the derivative is nan too
