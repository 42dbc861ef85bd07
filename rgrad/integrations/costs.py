"""The cost terms of one particle, with an estimator at each latent site."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from rgrad.autodiff import attach
from rgrad.distributions.admission import check_density
from rgrad.distributions.implicit import sample
from rgrad.distributions.log_density import log_prob
from rgrad.distributions.probabilities import probability, refuse_never_drawn
from rgrad.distributions.support import forbid_moving_support
from rgrad.distributions.wrappers import name_of
from rgrad.errors import Unsuitable
from rgrad.estimators.baselines import leave_one_out, plain
from rgrad.estimators.enumerated import enumerated, support_of
from rgrad.estimators.table import naming_others
from rgrad.expectations.in_place import is_score_function
from rgrad.expectations.particles import baseline_over_particles, over_particles
from rgrad.integrations.elements import Elements, elements_of
from rgrad.integrations.sites import (
    Dependence,
    Given,
    LatentSite,
    ModelAndGuide,
    SiteReached,
    Term,
    in_plates,
    run,
    summed_to,
    values_of_each,
)


def costs(of: ModelAndGuide, deps: Dependence, n: int, key: Array, given: Given) -> tuple[list[Term], Any]:
    """The cost terms given the values of some sites, with their derivatives for the parameters of all other sites.

    The guide runs until a site that has no value and whose estimator evaluates the rest. The rest is this function with
    one more value, so each level takes one such site out of the terms.
    """
    try:
        ran = run(of, key, given, deps)
    except SiteReached as reached:
        if reached.run.given is not given:  # a site of another loss around this one
            raise
        site, sites = reached.site, reached.run.sites
    else:
        return _with_scores(ran.terms, ran.sites, given, deps, n), ran.mutable
    rest = lambda x: costs(of, deps, n, key, {**given, site.name: x})
    terms, mutable = _summed_out(site, rest, deps) if _is_enumerated(site) else _estimated(site, rest, deps, n)
    return _with_scores(terms, sites, given, deps, n), mutable


def _with_scores(terms: list[Term], sites: list[LatentSite], given: Given, deps: Dependence, n: int) -> list[Term]:
    """The terms, and the score functions of the sites after the last given one.

    Those before it are added by the levels with fewer given sites, when the given ones are no longer in the terms: the
    baseline of a site must not be weighted by probabilities that depend on the site.
    """
    last = max((i for i, site in enumerate(sites) if site.name in given), default=-1)
    scored = [site for site in sites[last + 1 :] if is_score_function(site.estimator)]
    return [*terms, *(part for site in scored for part in _scores(site, terms, deps, n))]


def _scores(site: LatentSite, terms: list[Term], deps: Dependence, n: int) -> Iterator[Term]:
    """The score function of a site: terms of value 0 whose derivative is (cost - baseline) d log q.

    Costs that depend on the same sites and have the same plates are added first. Each of these sums is charged
    separately, because they may still be summed over later sites. Leave-one-out is linear, so it is computed for each.
    """
    log_q = log_density_of(site)
    baseline = baseline_over_particles(baseline_of(site.estimator), n, f"SVILoss: site {site.name!r}")
    groups: dict[Any, Any] = {}
    for term in terms:
        if site.name in term.depends_on:
            place = frozenset(term.frames), term.depends_on
            groups[place] = term if place not in groups else term._replace(value=term.value + groups[place].value)
    own = deps.values[site.name]
    apart = [
        Term(summed_to([t], {*t.frames, *site.frames}), (*t.frames, *site.frames), t.depends_on)
        for t in groups.values()
    ]
    if callable(baseline) and plain(baseline_of(site.estimator)) is not leave_one_out:  # it may be nonlinear
        everything = frozenset().union(*(t.depends_on for t in apart))
        apart = [Term(summed_to(apart, site.frames), site.frames, everything)]
    for term in apart:
        centred = term.value - (baseline(term.value) if callable(baseline) else 0.0)
        yield Term(attach(centred, log_q) - centred, term.frames, term.depends_on | own)
    if not callable(baseline):
        constant = jnp.broadcast_to(jnp.asarray(baseline, log_q.dtype), log_q.shape)
        yield Term(constant - attach(constant, log_q), site.frames, own)


def log_density_of(site: LatentSite) -> Array:
    """The log density of the value of a site, in its plates, unscaled and unmasked. Its derivative is the score.

    Raises:
        rgrad.NotApplicable: the score would be wrong.
    """
    q, caller = site.distribution, f"SVILoss: site {site.name!r}: score_function"
    check_density(q, name_of(q), caller)
    log_q = in_plates(log_prob(q, site.value), site.frames)
    return forbid_moving_support(refuse_never_drawn(log_q, q, caller), q, caller)


def baseline_of(estimator: Any) -> Any:
    return getattr(estimator, "keywords", {}).get("baseline", 0.0)


def _is_enumerated(site: LatentSite) -> bool:
    return site.estimator is enumerated or getattr(site.estimator, "func", None) is enumerated


def _split(terms: list[Term], site: LatentSite) -> tuple[list[Term], list[Term]]:
    """The terms that depend on a site, and the others."""
    return [t for t in terms if site.name in t.depends_on], [t for t in terms if site.name not in t.depends_on]


def _summed_out(site: LatentSite, rest: Any, deps: Dependence) -> tuple[list[Term], Any]:
    """The terms, summed over all values of a site. In plates, each element is summed over separately if possible."""
    q, own = site.distribution, deps.values[site.name] - {site.name}
    found: list[tuple[Any, frozenset[str]]] = []

    def values(x: Any) -> Any:
        terms, mutable = rest(x)
        found[:] = [(t.frames, t.depends_on) for t in terms]
        return [t.value for t in terms], mutable

    with naming_others(q):
        apart = deps.inside(site) and q.batch_shape != ()
        points = values_of_each(q) if apart else jnp.asarray(support_of(q.to_event(len(q.batch_shape))))
    costs, mutable = jax.vmap(values)(points)
    p = jax.vmap(partial(probability, q))(points)
    p = p if apart else p.reshape(len(points), -1).prod(1)
    terms = []
    for (frames, depends_on), cost in zip(found, costs, strict=True):
        if site.name not in depends_on:
            terms.append(Term(cost[0], frames, depends_on))
            continue
        if apart and not set(site.frames) <= set(frames):
            raise Unsuitable(
                f"SVILoss: site {site.name!r} is summed over for each element of its plates, but the baseline of another "
                "site mixes them; use rgrad.leave_one_out or a number there"
            )
        weight = p.reshape(len(points), *(1,) * (cost.ndim - p.ndim), *p.shape[1:])
        cost = jnp.where((weight > 0) | jnp.isfinite(cost), cost, 0.0)  # 0 log 0 is 0
        terms.append(Term((weight * cost).sum(0), frames, (depends_on | own) - {site.name}))
    return terms, jax.tree.map(lambda x: x[0], mutable)


def _estimated(site: LatentSite, rest: Any, deps: Dependence, n: int) -> tuple[list[Term], Any]:
    """The terms that depend on a site, as one term whose derivative is estimated by the estimator of the site.

    In plates, it is estimated for each element separately if possible.
    """
    q = site.distribution
    estimator = over_particles(site.estimator, n, f"SVILoss: site {site.name!r}")
    terms, mutable = rest(lax.stop_gradient(sample(q, site.key, ())))
    dependent, others = _split(terms, site)
    each = _elements(site, dependent, deps)
    frames = site.frames if each else ()
    f = lambda x: summed_to(_split(rest(x)[0], site)[0], frames)
    with naming_others(q):
        if each:
            term = each.estimate(estimator, f, site.key)
        else:
            (term,) = estimator(f, q.to_event(len(q.batch_shape)), site.key, 1)
    everything = frozenset().union(deps.values[site.name], *(t.depends_on for t in dependent))
    return [*others, Term(term, frames, everything - {site.name})], mutable


def _elements(site: LatentSite, dependent: list[Term], deps: Dependence) -> Elements | None:
    """The elements of a site in plates. None if an element can change the costs of another, or cannot be separated."""
    apart = site.distribution.batch_shape != () and deps.inside(site)
    apart = apart and all(set(site.frames) <= set(t.frames) for t in dependent)
    return elements_of(site.distribution) if apart else None
