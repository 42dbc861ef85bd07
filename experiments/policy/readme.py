"""The tables of this experiment's README."""

from experiments.common.readme import markdown
from experiments.common.tables import number
from experiments.policy.factors import DDOF, RATES, SIZES, grpo_factor, normal_factor
from experiments.policy.found import PolicyFound
from experiments.policy.language import TRAINED, ways_first
from experiments.policy.report import degrees, interval, percent, with_error
from experiments.policy.settings import PolicySettings


def readme_tables(found: PolicyFound, settings: PolicySettings) -> dict[str, str]:
    """Of the parts that ran."""
    tables = {}
    if found.language is not None:
        first = settings.penalties[0]
        at = {(r["estimator"], r["penalty"]): r for r in found.language.rows}
        names = [*settings.estimators, "exact"]
        lines = []
        for name in names:
            row, end = at.get((name, first), at.get((name, TRAINED))), at.get((name, TRAINED))
            if row is not None:
                lines.append([
                    f"`{name}`", percent(row["bias"]), degrees(row), number(row["factor"], 3), number(row["variance"], 3),
                    "-" if end is None else with_error(end, "end_objective"),
                ])  # fmt: skip
        header = ["estimator", "bias", "angle", "factor", "variance", "objective at the end"]
        tables["sequences"] = markdown(header, lines)
        name = ways_first(settings)
        second = "grpo" if "grpo" in settings.estimators else name
        lines = [
            [
                f"`{other}`", percent(r["bias"]), degrees(r), number(r["factor"], 3), number(r["variance"], 3),
                with_error(r, "end"), number(r["end_divergence"], 3), with_error(r, "end_objective"),
                with_error(at[second, other], "end_objective"),
            ]
            for other in settings.penalties if (r := at[name, other])
        ]  # fmt: skip
        header = [
            "penalty",
            "bias",
            "angle",
            "factor",
            "variance",
            "reward at the end",
            "divergence",
            "objective",
            f"objective of `{second}`",
        ]
        tables["penalties"] = markdown(header, lines)
        factors = [
            [f"{k}", *(number(grpo_factor(rate, k), 4) for rate in RATES), number(normal_factor(k), 3)] for k in SIZES
        ]
        head = [f"group size (ddof {DDOF})", *(f"success rate {rate:g}" for rate in RATES), "normal, sigma = 1"]
        tables["factors"] = markdown(head, factors)
        kinds = found.language.lengths
        lines = [[kind, *(number(weight, 3) for weight in weights.values())] for kind, weights in kinds.items()]
        tokens = list(next(iter(kinds.values())))
        tables["lengths"] = markdown(["divided by", *(f"{n} token{'s' * (n > 1)}" for n in tokens)], lines)
    if found.grid is not None:
        lines = [
            [f"`{r['estimator']}`", percent(r["bias"]), degrees(r), interval(r), number(r["signal_to_noise"], 2)]
            for r in found.grid.rows
        ]
        tables["grid"] = markdown(["estimator", "bias", "angle", "variance", "signal to noise"], lines)
    if found.cartpole is not None:
        lines = [
            [
                f"`{r['estimator']}`", with_error(r, "end", 4), f"{r['reached']} of {settings.seeds}",
                number(r["end_objective"], 3), interval(r),
            ]
            for r in found.cartpole.rows
        ]  # fmt: skip
        header = [
            "estimator",
            "return at the end",
            "runs at 400 or more",
            "mean return over the run",
            "variance of one gradient",
        ]
        tables["cartpole"] = markdown(header, lines)
    return tables
