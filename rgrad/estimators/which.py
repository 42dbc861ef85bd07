"""Which estimators have a rule for a distribution: what an error names where another has none."""

from typing import Any

from rgrad.dependent import dependent_draws
from rgrad.draws import WithKey
from rgrad.implicit import elementary, has_rsample


def those_for(q: Any) -> str:
    """`reparameterized, generalized, or score_function`: the estimators that have a rule for `q`."""
    from rgrad.estimators.measure_valued import weak_derivatives
    from rgrad.estimators.rejection import as_gammas
    from rgrad.standardised import by_moments

    base = q.base if isinstance(q, WithKey) else q
    rules = {"generalized": by_moments, "rejection": as_gammas, "measure_valued": weak_derivatives}
    if dependent_draws(q) is not None:  # they draw noise of their own
        rules = {}
    found = [
        name for name, rule in rules.items() if _has_rule(rule, elementary(base) if rule is weak_derivatives else base)
    ]
    names = ["reparameterized", *found, "score_function"] if has_rsample(base) else ["score_function", *found]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + ", or " + names[-1]


def _has_rule(rule: Any, q: Any) -> bool:
    return rule.dispatch(type(q)) is not rule.dispatch(object)
