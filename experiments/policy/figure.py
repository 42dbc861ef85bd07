"""The figure of `experiments.policy`: a row for each part."""

from typing import Any

import numpy as np

from experiments.common.plotting import COLOURS, figure_files, house_style, label_lines, panels, plain_log, style_of
from experiments.policy.cartpole_study import CartpoleFound
from experiments.policy.found import PolicyFound
from experiments.policy.language import LanguageFound, ways_first
from experiments.policy.mdp import GridFound
from experiments.policy.settings import PolicySettings

GREY = "#999999"


@house_style()
def draw_figure(found: PolicyFound, settings: PolicySettings) -> dict[str, bytes]:
    """`figure.png` and `figure.svg`."""
    parts = [part for part in (found.language, found.grid, found.cartpole) if part is not None]
    figure, axes = panels(len(parts), 2, height=3.3)
    for line, part in zip(axes, parts, strict=True):
        if isinstance(part, LanguageFound):
            _draw_ways(line[0], part, settings)
            _draw_training(line[1], part, settings)
        elif isinstance(part, GridFound):
            _draw_lambda(line[0], part)
            _draw_noise(line[1], part)
        else:
            _draw_learning(line[0], part)
            _draw_cartpole_noise(line[1], part)
    figure.suptitle("Policy gradients, judged by exact gradients")
    return figure_files(figure)


def _draw_ways(axis: Any, found: LanguageFound, settings: PolicySettings) -> None:
    """Standard deviation (dot) and bias (cross) of each way without a penalty, relative to the true gradient."""
    rows = [r for r in found.rows if r["penalty"] == settings.penalties[0] and r["estimator"] != "exact"]
    for j, r in enumerate(rows):
        colour = COLOURS[0] if r["unbiased"] else COLOURS[1]
        axis.plot(r["variance"] ** 0.5, j, "o", color=colour)
        if not r["unbiased"]:
            axis.plot(r["bias"], j, "x", color=colour, ms=8, mew=2)
    axis.set(
        xscale="log", xlabel="standard deviation (dot) and bias (cross)\nof one gradient / norm of the true gradient"
    )
    axis.set_yticks(range(len(rows)), [r["estimator"] for r in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_title("sequences: blue is unbiased (exact values)")
    plain_log(axis, "x")
    axis.grid(axis="x", alpha=0.3)


def _draw_training(axis: Any, found: LanguageFound, settings: PolicySettings) -> None:
    first = ways_first(settings)
    shown = ["exact", *(n for n in ("rloo", "grpo", "grpo+token_mean", "reinforce", "ppo") if n in settings.estimators)]
    shown += [f"{first}, {other}" for other in ("k1_loss", "k2_loss", "k3_loss")]
    ends = []
    for name in (n for n in shown if n in found.curves):
        each = found.curves[name]
        at = np.linspace(0, settings.training_steps, each.shape[1])
        colour = style_of(name).colour
        style = "--" if "," in name else "-"
        axis.plot(at, each.mean(0), style, color=colour, lw=1.4)
        ends.append((at[-1], float(each[:, -1].mean()), name, colour))
    axis.set(xlabel="batch (Adam, k1 in the reward if no penalty is named)", ylabel="reward - beta KL, exact")
    axis.set_title("sequences: training")
    axis.grid(alpha=0.3)
    axis.margins(x=0)
    label_lines(axis, ends)


def _draw_lambda(axis: Any, found: GridFound) -> None:
    """The exact bias of GAE against lambda, for each critic."""
    for i, (critic, bias) in enumerate(found.bias.items()):
        axis.plot(
            found.lambdas,
            np.maximum(bias, 1e-16) if critic != "exact" else 0 * bias,
            "-",
            color=COLOURS[i],
            label=f"{critic} critic",
        )
    axis.set(xlabel="lambda", ylabel="bias / norm of the true gradient", title="grid: exact bias of GAE(lambda)")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)


def _draw_noise(axis: Any, found: GridFound) -> None:
    rows = found.rows
    for j, r in enumerate(rows):
        colour = COLOURS[0] if r["unbiased"] else COLOURS[1]
        axis.plot([r["variance_low"], r["variance_high"]], [j, j], "-", lw=3, color=colour)
        axis.plot(r["variance"], j, "o", ms=4, color=colour)
        if not r["unbiased"]:
            axis.plot(r["bias"] ** 2, j, "x", color=colour, ms=6)
    axis.set(xscale="log", xlabel="variance of one gradient with 95 % interval (cross: squared bias)")
    axis.set_yticks(range(len(rows)), [r["estimator"] for r in rows], fontsize=6.5)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_title("grid: blue is unbiased")
    axis.grid(axis="x", alpha=0.3)


def _draw_learning(axis: Any, found: CartpoleFound) -> None:
    """The mean over the seeds, and a band that leaves out an eighth on either side."""
    for name, each in found.curves.items():
        low, high = np.quantile(each, (0.125, 0.875), axis=0)
        colour = style_of(name).colour
        axis.fill_between(found.steps, low, high, color=colour, alpha=0.15, lw=0)
        axis.plot(found.steps, each.mean(0), "-", color=colour, lw=1.4, label=name)
    axis.axhline(400, color=GREY, lw=0.8, ls=":")
    axis.set(xlabel="thousand steps of the environment", ylabel="return of a batch")
    axis.set_title("cartpole: mean and the middle 3/4 of the runs")
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}")
    axis.grid(alpha=0.3)
    axis.margins(x=0)
    axis.set_ylim(0, 510)
    axis.legend(frameon=False, loc="lower right")


def _draw_cartpole_noise(axis: Any, found: CartpoleFound) -> None:
    for j, r in enumerate(found.rows):
        style = style_of(r["estimator"])
        low = max(r["variance_low"], r["variance"] / 10)
        axis.plot([low, r["variance_high"]], [j, j], "-", lw=3, color=style.colour)
        axis.plot(r["variance"], j, style.marker, color=style.colour)
    axis.set(xscale="log", xlabel="total variance of one gradient with 95 % interval")
    axis.set_yticks(range(len(found.rows)), [r["estimator"] for r in found.rows])
    axis.set_ylim(len(found.rows) - 0.5, -0.5)
    axis.set_title("cartpole: the same episodes for all")
    plain_log(axis, "x")
    axis.grid(axis="x", alpha=0.3)
