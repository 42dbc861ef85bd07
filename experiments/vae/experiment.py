"""Does the reparameterization trick train a variational autoencoder better than the score function, at equal compute?"""

import time
from pathlib import Path
from typing import Any

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.checkpoint import latest, npz, write_checkpoint
from experiments.common.errors import UsageError
from experiments.common.interrupt import held, keep
from experiments.common.progress import progress
from experiments.common.readme import readme_of
from experiments.common.record import output_folder, result_files, rewrite_readme, saved
from experiments.common.tables import number, print_table
from experiments.vae import study as vae_task
from experiments.vae.figure import draw_figure
from experiments.vae.readme import readme_tables
from experiments.vae.settings import VaeSettings
from experiments.vae.study import mean_and_half


def run(settings: VaeSettings) -> None:
    if settings.steps % settings.every:
        more = settings.steps + -settings.steps % settings.every
        raise UsageError(f"--steps {settings.steps}: not a multiple of --every {settings.every}; give {more}")

    checkpoint = None if settings.resume is None else latest(Path(settings.resume), settings)
    readme = readme_of("vae") if settings.readme else None
    began = time.monotonic()
    # No validation: the parameters come from the networks, and it takes seconds at every trace.
    with output_folder(settings.out or settings.resume, "vae") as folder, validation_enabled(False):
        task = vae_task.prepare(settings, jax.random.key(settings.seed))
        independent = vae_task.independent_pixels(task.digits, settings.likelihood)
        at = vae_task.beginning(task) if checkpoint is None else vae_task.restored(task, checkpoint)
        kept = at.step if checkpoint and folder.resolve() == Path(settings.resume or "").resolve() else None
        if kept is not None:
            keep(_message(kept, folder))
        with progress(settings.steps, "training") as advance:
            advance(at.step)
            for now in vae_task.training(task, at):
                at = now
                with held():
                    write_checkpoint(folder, vae_task.to_save(at), settings, before=kept)
                    kept = at.step
                    keep(_message(kept, folder))
                advance(settings.every)
        rows, pictures = vae_task.results(task, at)
        compared = vae_task.margins(rows, settings.estimators)
        files = result_files("vae", settings, rows, time.monotonic() - began)
        files |= {"margins.csv": vae_task.margins_file(compared), "pictures.npz": npz(pictures)}
        with saved(folder, files, lambda: draw_figure(rows, pictures, independent, settings)) as figures:
            report(rows, compared, independent, settings)
            print(f"written to {folder}/: {', '.join([*files, *figures])}, checkpoints/")
        if readme is not None:
            rewrite_readme(readme, readme_tables(rows, compared, settings), figures)
    raise_divergence(rows, settings)


def _message(step: int, folder: Path) -> str:
    return f"step {step:,} is kept; continue with --resume {folder}"


def report(
    rows: list[dict[str, Any]], compared: list[dict[str, Any]], independent: float, settings: VaeSettings
) -> None:
    """Prints the final results as means over the seeds, and the margin of the first estimator."""

    lines = []
    for name in settings.estimators:
        end = [r for r in rows if r["estimator"] == name and r["step"] == settings.steps]
        cells = (mean_and_half([r[key] for r in end]) for key in ("test_elbo", "iwae", "train_elbo", "squared_error"))
        shown = [f"{number(mean)} +- {number(half, 2)}" for mean, half in cells]
        lines.append([name, *shown, number(1e3 * end[0]["seconds"] / settings.steps / settings.seeds, 3)])
    print_table(
        ["estimator", "held-out ELBO", f"bound, K = {settings.bound_k:,}", "training ELBO",
         "squared error of a pixel", "ms per step and seed"],
        lines,
        f"{settings.likelihood}, {settings.latents} latents, {settings.num_samples} samples per image, after "
        f"{settings.steps:,} steps: nats per image, mean and 95 % interval over {settings.seeds} seeds",
    )  # fmt: skip
    print(f"held-out log likelihood with independent pixels, without z: {number(independent)} nats per image")
    if compared:
        print_table(
            ["held-out ELBO above that of", "at equal", "margin", "95 % interval", "verdict"],
            [
                [r["other"], f"{r['at']}, {number(r['place'])}", number(r["margin"], 3),
                 f"[{number(r['low'], 3)}, {number(r['high'], 3)}]", r["verdict"]]
                for r in compared
            ],
            f"{settings.estimators[0]}, same seeds: nats per image",
        )  # fmt: skip


def raise_divergence(rows: list[dict[str, Any]], settings: VaeSettings) -> None:
    """Reports divergence after everything has been written. The weights of the last good step are kept.

    Raises:
        UsageError: the ELBO or its gradient was not finite. The message names the run and the step.
    """
    stopped = [
        f"{r['estimator']}, seed {r['seed']}: step {r['stopped_at']:,}"
        for r in rows
        if r["step"] == settings.steps and r["stopped_at"] >= 0
    ]
    if stopped:
        raise UsageError(
            f"--learning-rate {settings.learning_rate:g}: the ELBO, its gradient or the new weights were not finite "
            f"({'; '.join(stopped)}), and the last good weights were kept; give a smaller learning rate"
        )
