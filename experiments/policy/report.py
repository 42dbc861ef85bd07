"""The printed text of `experiments.policy`."""

from experiments.common.tables import number, print_table
from experiments.policy.found import PolicyFound
from experiments.policy.neural import ENOUGH
from experiments.policy.rows import SURE, Row
from experiments.policy.settings import PolicySettings


def percent(x: float | None) -> str:
    """A relative bias. Rounding in 64 bits is "none"."""
    if x is None:
        return "-"
    return "none" if x < 1e-9 else f"{100 * x:.2g} %" if x < 0.995 else f"{100 * x:.0f} %"


def degrees(row: Row) -> str:
    return "-" if row["angle"] is None else f"{row['angle']:.1f}" if row["angle"] >= 0.05 else "0"


def with_error(row: Row, name: str, digits: int = 3) -> str:
    """A mean over runs and the half-width of its 95 % interval."""
    if row[name] is None:
        return "-"
    error = row[f"{name}_error"]
    return number(row[name], digits) + ("" if error is None else f" +- {number(1.96 * error, 2)}")


def interval(row: Row) -> str:
    """The variance, with its interval if it was measured."""
    low = row["variance_low"]
    return number(row["variance"], 3) + (
        "" if low is None else f" [{number(low, 3)}, {number(row['variance_high'], 3)}]"
    )


def report(found: PolicyFound, settings: PolicySettings) -> list[Row]:
    """Prints the tables and the verdict. Returns the rows that are not as theory says."""
    if found.language is not None:
        print_table(
            ["estimator", "penalty", "bias", "angle", "factor", "variance", "signal to noise", "reward at the end", "objective at the end", "divergence"],
            [
                [r["estimator"], r["penalty"], percent(r["bias"]), degrees(r), number(r["factor"], 3), number(r["variance"], 3),
                 number(r["signal_to_noise"], 3), with_error(r, "end"), with_error(r, "end_objective"), number(r["end_divergence"], 3)]
                for r in found.language.rows
            ],
            f"sequences: {settings.group} answers to each of 5 prompts; exact bias, angle in degrees and variance, relative to "
            f"the true gradient; after {settings.training_steps:,} batches, {settings.runs} runs",
        )  # fmt: skip
    if found.grid is not None:
        print_table(
            ["estimator", "bias", "angle", "factor", "variance with 95 % interval", "signal to noise"],
            [
                [r["estimator"], percent(r["bias"]), degrees(r), number(r["factor"], 3), interval(r), number(r["signal_to_noise"], 3)]
                for r in found.grid.rows
            ],
            f"grid: {settings.grid_episodes} episodes of at most {settings.horizon} steps; exact bias, relative to the true gradient",
        )  # fmt: skip
    if found.cartpole is not None:
        print_table(
            ["estimator", "return at the end", "mean return over the run", f"runs with {ENOUGH:.0f} or more", "variance of one gradient", "signal to noise"],
            [
                [r["estimator"], with_error(r, "end", 4), number(r["end_objective"], 4), f"{r['reached']} of {settings.seeds}",
                 interval(r), number(r["signal_to_noise"], 2)]
                for r in found.cartpole.rows
            ],
            f"cartpole: {settings.env_steps:,} steps of the environment, {settings.seeds} seeds",
        )  # fmt: skip
    wrong = [r for r in found.rows if r["holds"] is False]
    measured = [r for r in found.rows if r["measured_z"] is not None]
    if measured:
        print(
            f"{len(measured)} measured mean gradients compared with the exact ones: they differ by at most "
            f"{max(r['measured_z'] for r in measured):.1f} standard errors (limit {SURE:.0f})"
        )
    for r in wrong:
        print(f"not as it should be: {r['part']}, {r['estimator']}, {r['penalty'] or 'no penalty'}: bias {percent(r['bias'])}, "
              f"{number(r['measured_z'], 3)} standard errors")  # fmt: skip
    return wrong
