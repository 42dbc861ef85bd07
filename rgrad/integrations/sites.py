"""The latent sites of a NumPyro guide, run with an estimator at each, and the cost terms of guide and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, lax
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import Messenger

from rgrad.backend.noise import fold_in
from rgrad.distributions.entropy import entropy
from rgrad.distributions.implicit import has_rsample, implicitly, rsample, sample
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.wrappers import elementary, name_of
from rgrad.errors import NoDerivative
from rgrad.estimators.enumerated import support_of
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.table import naming_others
from rgrad.expectations.in_place import is_score_function
from rgrad.protocols import Estimator, Sample

Given = Mapping[str, Sample]
Chosen = Callable[[str, Any], Estimator]


class Term(NamedTuple):
    """One term of the negative ELBO: the cost of a site of the guide or of the model."""

    value: Array
    """Shape: that of the batch of the site, scaled and masked."""
    frames: Any
    """The plates around the site."""
    depends_on: frozenset[str]
    """The latent sites that can change it."""


class LatentSite(NamedTuple):
    """A latent site of the guide."""

    name: str
    distribution: Any
    """Without its mask: a masked site is drawn like any other. Only its cost is masked."""
    estimator: Estimator
    frames: Any
    key: Array
    value: Sample | None = None


class SiteReached(BaseException):
    """Unwinds out of a guide at a site whose estimator evaluates the rest. Not an `Exception`, so no guide catches it."""

    def __init__(self, run: Any, site: LatentSite):
        self.run, self.site = run, site


class ModelAndGuide(NamedTuple):
    """A model and a guide with their arguments, and the options of the loss."""

    model: Any
    guide: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    params: dict[str, Any]
    entropy: str
    chosen: Chosen


class Ran(NamedTuple):
    """A finished run."""

    terms: list[Term]
    sites: list[LatentSite]
    traces: tuple[Any, Any]
    """Of the model and of the guide."""

    @property
    def mutable(self) -> dict[str, Any]:
        """The values of mutable sites."""
        return {name: s["value"] for tr in reversed(self.traces) for name, s in tr.items() if s["type"] == "mutable"}


class _AtSites(Messenger):  # type: ignore[misc]
    """Gives each latent site of a guide its value."""

    def __init__(self, fn: Any, of: ModelAndGuide, key: Array, given: Given):
        super().__init__(fn)
        self.of, self.key, self.given = of, key, given
        self.sites: list[LatentSite] = []

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or msg["value"] is not None:
            return
        name, q = msg["name"], unmasked(msg["fn"])
        key = fold_in(self.key, 2 + len(self.sites))
        estimator = self.of.chosen(name, q)
        site = LatentSite(name, q, estimator, tuple(msg["cond_indep_stack"]), key)
        if name in self.given:
            msg["value"] = self.given[name]
        elif is_score_function(estimator):
            msg["value"] = lax.stop_gradient(sample(q, key, ()))
        elif estimator is reparameterized:
            msg["value"], msg["intermediates"] = pathwise(q, key, name)
        else:
            raise SiteReached(self, site)
        self.sites.append(site._replace(value=msg["value"]))


def unmasked(q: Any) -> Any:
    while isinstance(q, dist.MaskedDistribution):
        q = q.base_dist
    return q


def pathwise(q: Any, key: Array, name: str) -> tuple[Sample, Any]:
    """A reparameterized sample, as NumPyro draws it, and what its density reuses."""
    if q.has_rsample and implicitly(q) is q:
        value, intermediates = q(rng_key=key, sample_intermediates=True)
        return value, intermediates
    if not has_rsample(q):
        with naming_others(q):
            raise NoDerivative(f"SVILoss: site {name!r}: reparameterized needs q.rsample, and {name_of(q)} has none")
    return rsample(q, key, ()), []


def run(of: ModelAndGuide, key: Array, given: Given, deps: Dependence) -> Ran:
    """Runs the guide with the given values, then the model.

    Raises:
        SiteReached: at the first site that has no value, and an estimator that evaluates the rest.
    """
    sites = _AtSites(substitute(of.guide, data=of.params), of, key, given)
    guide = trace(seed(sites, fold_in(key, 0))).get_trace(*of.args, **of.kwargs)
    densities = _with_constant_parameters(of, key, guide, sites.sites) if of.entropy == "detached" else guide
    replayed = substitute(replay(seed(of.model, fold_in(key, 1)), guide), data=of.params)
    model = trace(replayed).get_trace(*of.args, **of.kwargs)
    latent = {site.name: site for site in sites.sites}
    terms = [
        _guide_term(site, latent.get(name), of, deps) for name, site in densities.items() if site["type"] == "sample"
    ]
    terms += [
        Term(-_scaled(site, _log_prob(site)), site["cond_indep_stack"], deps.model.get(name, frozenset()))
        for name, site in model.items()
        if site["type"] == "sample"
    ]
    return Ran(terms, sites.sites, (model, guide))


def _with_constant_parameters(of: ModelAndGuide, key: Array, guide: Any, sites: list[LatentSite]) -> Any:
    """The trace of the guide at the same values. Its densities depend on the parameters only through the values.

    The values themselves keep their derivatives: the density of a site depends on the values of the sites before it.
    """
    # A `Delta` computes its value again. Otherwise rounding could make the two differ.
    values = {site.name: site.value for site in sites if not isinstance(elementary(site.distribution), dist.Delta)}
    constant = jax.tree.map(lax.stop_gradient, of.params)
    again = _AtSites(
        substitute(of.guide, data=constant), of._replace(chosen=lambda name, q: reparameterized), key, values
    )
    return trace(seed(again, fold_in(key, 0))).get_trace(*of.args, **of.kwargs)


def _guide_term(site: Any, latent: LatentSite | None, of: ModelAndGuide, deps: Dependence) -> Term:
    """`log q` of a site of the guide, or minus its entropy."""
    depends_on = deps.guide.get(site["name"], frozenset())
    if of.entropy == "exact" and latent is not None:
        value = -entropy(latent.distribution)
        mask = site["fn"]._mask if isinstance(site["fn"], dist.MaskedDistribution) else None
        value = value if mask is None else jnp.where(mask, value, 0.0)
        return Term(_scaled(site, value), site["cond_indep_stack"], depends_on - {site["name"]})
    return Term(_scaled(site, _log_prob(site)), site["cond_indep_stack"], depends_on)


def _log_prob(site: Any) -> Array:
    if site["intermediates"]:
        return site["fn"].log_prob(site["value"], site["intermediates"])
    return log_prob(site["fn"], site["value"])


def _scaled(site: Any, value: Array) -> Array:
    return value if site["scale"] is None else site["scale"] * value


class Dependence(NamedTuple):
    """The latent sites that can change each cost and each value, by the name of the site."""

    guide: Mapping[str, frozenset[str]]
    model: Mapping[str, frozenset[str]]
    values: Mapping[str, frozenset[str]]
    frames: Mapping[str, list[Any]]
    """For each latent site, the plates of the costs that depend on it."""

    def inside(self, site: LatentSite) -> bool:
        """Whether the site has no batch except its plates, and everything that depends on it is inside these plates."""
        frames = set(site.frames)
        dims = {f.dim for f in frames}
        shape = site.distribution.batch_shape
        plated = all(size == 1 or i - len(shape) in dims for i, size in enumerate(shape))
        return plated and all(frames <= set(others) for others in self.frames[site.name])


NONE = Dependence({}, {}, {}, {})


def values_of_each(q: Any) -> Array:
    """The values of each element of a batch, shape `(K, *q.shape())`.

    Raises:
        rgrad.NotApplicable: the elements have no finite support that can be listed, or their supports differ.
    """
    one = elementary(q)
    single = one if one.batch_shape == () else None
    points = support_of(single) if single is not None else _common_values(one)
    return jnp.broadcast_to(
        jnp.asarray(points).reshape(len(points), *(1,) * len(q.batch_shape), *q.event_shape), (len(points), *q.shape())
    )


def _common_values(q: Any) -> Any:
    with jax.ensure_compile_time_eval():
        each = np.asarray(q.enumerate_support(expand=False))
    return each.reshape(len(each), -1, *q.event_shape)[:, 0]


class _Marked(Messenger):  # type: ignore[misc]
    """Gives each latent site a value that depends, in the trace, on its own input and on what its distribution uses."""

    def __init__(self, fn: Any, values: Given):
        super().__init__(fn)
        self.values = values

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"] and msg["value"] is None and msg["name"] in self.values:
            drawn, value = sample(unmasked(msg["fn"]), jax.random.key(0), ()), self.values[msg["name"]]
            msg["value"] = jax.tree.map(lambda a, b: jnp.where(b == b, b, a).astype(b.dtype), drawn, value)


def dependence(of: ModelAndGuide, latents: Mapping[str, Any]) -> Dependence:
    """The dependence, from the traced program of the costs. Nothing is computed.

    Args:
        latents: the shape and dtype of each latent site.
    """

    plates: list[dict[str, Any]] = []

    def costs(**values: Sample) -> Any:
        guide_fn = _Marked(substitute(of.guide, data=of.params), values)
        guide = trace(seed(guide_fn, jax.random.key(0))).get_trace(*of.args, **of.kwargs)
        replayed = substitute(replay(seed(of.model, jax.random.key(0)), guide), data=of.params)
        model = trace(replayed).get_trace(*of.args, **of.kwargs)
        of_sites = lambda sites: {n: _log_prob(s) for n, s in sites.items() if s["type"] == "sample"}
        plates[:] = [
            {n: tuple(s["cond_indep_stack"]) for n, s in sites.items() if s["type"] == "sample"}
            for sites in (guide, model)
        ]
        return of_sites(guide), of_sites(model), {name: guide[name]["value"] for name in values}

    found = eval_provenance(costs, **latents)
    on_guide, on_model, values = ({n: _union(p) for n, p in part.items()} for part in found)
    costs_of = [(on_guide[n], frames) for n, frames in plates[0].items()]
    costs_of += [(on_model[n], frames) for n, frames in plates[1].items()]
    by_site = {name: [frames for on, frames in costs_of if name in on] for name in values}
    return Dependence(on_guide, on_model, values, by_site)


def _union(provenance: Any) -> frozenset[str]:
    leaves = jax.tree.leaves(provenance, is_leaf=lambda x: isinstance(x, frozenset))
    return frozenset().union(*leaves)


def summed_to(terms: list[Term], frames: Any) -> Array:
    """The sum of terms: one number for each element of the plates `frames`, or a scalar if there are none.

    All other axes are summed over, including those that no plate declares.
    """
    kept = [in_plates(term.value, {*term.frames} & {*frames}) for term in terms]
    total = sum(kept, start=jnp.zeros(()))
    return total if frames else total.sum()


def in_plates(value: Array, frames: Any) -> Array:
    """The sum of a value over all axes that do not belong to these plates. Their size becomes 1."""
    dims = {frame.dim for frame in frames}
    others = tuple(axis for axis in range(value.ndim) if axis - value.ndim not in dims)
    return value.sum(others, keepdims=True) if others else value
