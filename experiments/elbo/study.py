"""The measurement of `experiments.elbo`: the noise of the gradient of the ELBO, for each block of parameters."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

import rgrad
from experiments.common.errors import UsageError, nearest
from experiments.common.loading import ESTIMATORS, load
from experiments.common.measuring import usage
from experiments.common.progress import Advance
from experiments.elbo.checks import NORMAL, Row, cholesky_family, row, sampled
from experiments.elbo.targets import SCIPY, ElboTarget, Params, factor, load_target, near, try_target

CHUNK = 2**8  # replicates between updates of the progress bar
ENTROPIES = ("sampled", "exact", "detached")
GRID = (0.01, 0.03, 0.1, 0.3, 1.0)  # the distances for Gamma, Beta and Dirichlet
Way = tuple[rgrad.Estimator, Any]


class Case(NamedTuple):
    """A q and a target, at several distances from the point at which they agree."""

    target: str
    q: str
    dimension: int
    build: Callable[[Params], Any]
    """Maps parameters to q."""
    log_g: Callable[[Any], Any]
    places: list[Params]
    """The parameters at each distance: NumPy arrays by block."""
    distances: tuple[float, ...]
    exact: Callable[[Params], Array] | None
    """Maps parameters to the ELBO in closed form."""


def load_way(name: str, flag: str = "--estimators") -> Way:
    """Parses `estimator/entropy`, e.g. `score_function/sampled` or `mine.py:estimator/exact`.

    Raises:
        UsageError: the estimator or the entropy is unknown.
    """
    estimator, slash, entropy = name.rpartition("/")
    if not slash or entropy not in ENTROPIES:
        hint = nearest(entropy, ENTROPIES) if slash else ""
        raise UsageError(f"{flag} {name}: write ESTIMATOR/ENTROPY, where ENTROPY is sampled, exact or detached{hint}")
    found = load(flag, estimator, ESTIMATORS)
    if not callable(found):
        raise UsageError(f"{flag} {name}: expected a function (f, q, key, n) -> terms, got {type(found).__name__}")
    return found, entropy


def location_scale_cases(settings: Any) -> list[tuple[ElboTarget, Case]]:
    """One case for each dimension, tested before anything is measured."""
    cases = []
    for D in settings.dimensions:
        target = load_target(settings.target, D, settings.seed)
        rng = np.random.default_rng([settings.seed, D, 2])
        places = [near(target, distance, rng) for distance in settings.distances]
        for place in places:
            try_target(target, place, settings.phi, f"--target {settings.target} with D = {D}")
        build = lambda p: cholesky_family(p["mu"], factor(p), settings.phi)
        exact = None if target.expected is None else partial(_closed_form, target.expected, settings.phi)
        cases.append((target, Case(settings.target, settings.phi, D, build, target.log_g, places, settings.distances, exact)))  # fmt: skip
    return cases


def _closed_form(expected: Callable[..., Array], phi: str, p: Params) -> Array:
    law, C = SCIPY[phi], factor(p)
    return expected(p["mu"], C, law.var()) + jnp.log(p["diagonal"]).sum() + p["mu"].size * law.entropy()


FAMILIES: Mapping[str, tuple[tuple[str, ...], Callable[[Params], Any]]] = {
    "gamma": (("concentration", "rate"), lambda p: dist.Gamma(p["concentration"], p["rate"]).to_event(1)),
    "beta": (("concentration1", "concentration0"), lambda p: dist.Beta(p["concentration1"], p["concentration0"])),
    "dirichlet": (("concentration",), lambda p: dist.Dirichlet(p["concentration"])),
}


def family_case(name: str, settings: Any) -> Case:
    """q and a target of the same family. Each parameter of q is that of the target times e^(+-distance). ELBO = -KL."""
    D = settings.family_dimension
    shape = {"gamma": (D,), "beta": (), "dirichlet": (D + 1,)}[name]
    rng = np.random.default_rng([settings.seed, D, 3])
    blocks, build = FAMILIES[name]
    at_target = {block: rng.uniform(1.0, 4.0, shape) for block in blocks}
    signs = {block: np.where(rng.random(shape) < 0.5, -1.0, 1.0) for block in blocks}
    places = [{b: x * np.exp(distance * signs[b]) for b, x in at_target.items()} for distance in GRID]
    target = lambda: build({block: jnp.asarray(x, float) for block, x in at_target.items()})
    exact = lambda p: -dist.kl_divergence(build(p), target())
    return Case(name, name, max(1, int(np.prod(shape)) - (name == "dirichlet")), build, lambda z: target().log_prob(z),
                places, GRID, exact)  # fmt: skip


def ways_that_apply(case: Case, ways: Mapping[str, Way], n: int, flag: str) -> tuple[dict[str, Way], dict[str, str]]:
    """The estimators that apply to this q, and the reasons why the others do not.

    Raises:
        UsageError: none applies.
    """
    kept, left_out = {}, {}
    place = _floats(case.places[0])
    for name, way in ways.items():
        try:
            with usage(f"{name} with q = {case.q} in {case.dimension} and --num-samples {n}", Exception):
                jax.eval_shape(partial(_gradients, case, {name: way}, n, place), jax.random.key(0))
            kept[name] = way
        except UsageError as error:
            left_out[name] = str(error)
    if not kept:
        raise UsageError(f"{flag}: no estimator applies: {next(iter(left_out.values()))}")
    return kept, left_out


def _floats(place: Params) -> Params:
    return {block: jnp.asarray(x, float) for block, x in place.items()}


def _gradients(case: Case, ways: Mapping[str, Way], n: int, place: Params, key: Array) -> dict[str, Params]:
    """For every estimator, from the same key: the ELBO as "elbo", and its gradient by block."""

    def one(way: Way) -> Params:
        estimator, entropy = way
        elbo = lambda p: rgrad.elbo(case.log_g, case.build(p), key, n, estimator, entropy)
        value, gradient = jax.value_and_grad(elbo)(place)
        return {"elbo": value, **gradient}

    return {name: one(way) for name, way in ways.items()}


def measured_rows(case: Case, ways: Mapping[str, Way], settings: Any, key: Array, advance: Advance) -> list[Row]:
    """For each distance, estimator and block: the variance of the gradient, and its mean along the exact gradient.

    The variance of a block is the sum over its coordinates. It is measured as the mean of half the squared distance
    between two independent estimates, so its interval does not assume that the coordinates are independent.

    Raises:
        UsageError: a gradient is nan or infinite.
    """
    places = _floats({b: np.stack([place[b] for place in case.places]) for b in case.places[0]})
    exact, along = zip(*(_direction(case, place) for place in case.places), strict=True)
    directions = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), float), *along)

    def draw(key: Array) -> dict[str, dict[str, tuple[Array, Array]]]:
        def at(place_and_direction: tuple[Params, Params]) -> Any:
            place, direction = place_and_direction
            pair = jax.vmap(partial(_gradients, case, ways, settings.num_samples, place))(jax.random.split(key))
            spread = lambda g, u: (jnp.sum((g[0] - g[1]) ** 2) / 2, jnp.sum(u * (g[0] + g[1])) / 2)
            return {name: {b: spread(g, direction[b]) for b, g in gradient.items()} for name, gradient in pair.items()}

        # Not vmap: XLA's CPU solver for batched triangular systems deadlocks if two run at the same time on two cores.
        return jax.lax.map(at, (places, directions))

    moments = None
    for begin in range(0, settings.replicates, CHUNK):
        part = rgrad.measure(draw, key, min(CHUNK, settings.replicates - begin), start=begin)
        moments = part if moments is None else moments.merge(part)
        _check_finite(moments, case)
        advance(min(CHUNK, settings.replicates - begin) / settings.replicates)
    assert moments is not None
    rows = []
    low, high = moments.interval()
    for i, distance in enumerate(case.distances):
        for name in ways:
            for block in ("elbo", *case.places[0]):
                pick = lambda tree, j: float(tree[name][block][j][i])  # noqa: B023
                estimator, entropy = name.rpartition("/")[::2]
                more: Row = {"estimator": estimator, "entropy": entropy, "distance": distance,
                        "replicates": int(moments.count)}  # fmt: skip
                about: Any = partial(row, target=case.target, q=case.q, dimension=case.dimension, quantity=block)
                interval = {"low": max(0.0, pick(low, 0)), "high": pick(high, 0)}
                rows.append(about("variance", value=pick(moments.mean, 0), **more, **interval))
                value, error = pick(moments.mean, 1), pick(moments.standard_error, 1)
                columns = {"value": value, "low": value - NORMAL * error, "high": value + NORMAL * error}
                if (truth := exact[i]) is not None:
                    columns = sampled(value, truth[block], error)
                rows.append(about("mean", **more, **columns))
    return rows


def _direction(case: Case, place: Params) -> tuple[dict[str, float] | None, Params]:
    """The ELBO, the length of each block of its gradient, and the direction along which a mean gradient is measured.

    Without a closed form, the direction is (1, ..., 1).
    """
    unit = lambda g: g / np.sqrt(np.sum(g**2)) if np.any(g) else g
    if case.exact is None:
        return None, {"elbo": np.ones(()), **{b: unit(np.ones_like(x)) for b, x in place.items()}}
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(case.exact)(_floats(place))
        gradient = {b: np.asarray(g) for b, g in gradient.items()}
    lengths = {b: float(np.sqrt(np.sum(g**2))) for b, g in gradient.items()}
    return {"elbo": float(value), **lengths}, {"elbo": np.ones(()), **{b: unit(g) for b, g in gradient.items()}}


def _check_finite(moments: rgrad.Moments, case: Case) -> None:
    for name, blocks in moments.nonfinite.items():
        for block, (counts, _) in blocks.items():
            if np.any(counts):
                at = case.distances[int(np.argmax(counts))]
                raise UsageError(
                    f"--target {case.target} with D = {case.dimension}: {name}, d/d {block}, is nan or infinite in "
                    f"{int(np.max(counts)):,} of {int(moments.count):,} estimates at distance {at:g}; make the target "
                    "finite and differentiable on the whole support, or try --float-width 64"
                )
