"""Does the reparameterization trick train a variational autoencoder better than the score function, at equal compute?

python -m experiments.vae
"""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from experiments.errors import UsageError
from experiments.runner import command, number, print_table, progress, start
from experiments.settings import ONCE, Common


class Vae(Common):
    """A variational autoencoder of 1,500 scikit-learn digits, 8 x 8: the ELBO of the 297 others, by gradient estimator.

    q(z|x) = N(mu(x), sigma(x)^2), p(z) = N(0, I), p(x|z) Bernoulli or Gaussian; a network has one hidden layer of tanh.
    Equal compute: each step of Adam has the same images, samples and network evaluations. Checkpoints are kept in the
    folder of the results, and Ctrl-C leaves the last ones there.
    """

    estimators: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = (
        "reparameterized",
        "score_function+leave_one_out",
    )
    """By name, or your own as module:function; the first is compared with each of the others."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """bernoulli: a pixel is on at 8 or more of its 16 levels; gaussian: of level / 16, with one noise for all, learned."""
    entropy: Literal["detached", "sampled", "exact"] = "detached"
    """How the ELBO is written in training (see rgrad.elbo); the score function is least noisy with detached."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Units of each network, an integer."""
    latents: Annotated[int, Field(ge=1, le=1024)] = 16
    """Of z, an integer."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = 64
    """Images of a step, drawn with replacement, an integer."""
    samples: Annotated[int, Field(ge=1, le=1024)] = 2
    """Of z for each image of a step, an integer; leave-one-out needs 2."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.002
    """Of Adam."""
    steps: Annotated[int, Field(ge=1, lt=2**31)] = 4_000
    """Of training, an integer; a multiple of every."""
    every: Annotated[int, Field(ge=1, lt=2**31)] = 100
    """Steps from one checkpoint, and one point of the curves, to the next, an integer."""
    seeds: Annotated[int, Field(ge=2, le=1024)] = 8
    """How many training runs by each estimator, of other weights and other random numbers, an integer."""
    bound_samples: Annotated[int, Field(ge=1, le=2**16)] = 100
    """K of the importance-weighted bound on log p(x) at the end, an integer."""
    resume: str | None = None
    """The folder of a run to go on with, under the same settings; --steps may grow."""


def run(settings: Vae) -> None:
    if settings.steps % settings.every:
        more = settings.steps + -settings.steps % settings.every
        raise UsageError(f"--steps {settings.steps}: no multiple of --every {settings.every}; give {more}")
    from experiments.vae_checkpoint import latest, write_checkpoint

    saved = None if settings.resume is None else latest(Path(settings.resume), settings)
    jax = start(settings.float_width)
    import numpyro

    from experiments import vae_task
    from experiments.record import output_folder, result_files, write
    from experiments.vae_checkpoint import npz
    from experiments.vae_figure import draw_figure

    began = time.monotonic()
    numpyro.enable_validation(False)  # the parameters are the networks' own; to check them at every trace takes seconds
    task = vae_task.prepare(settings, jax.random.key(settings.seed))
    independent = vae_task.independent_pixels(task.digits, settings.likelihood)
    with output_folder(settings.out or settings.resume, "vae") as folder:
        at = vae_task.beginning(task) if saved is None else vae_task.restored(task, saved)
        kept = at.step if saved and folder.resolve() == Path(settings.resume or "").resolve() else None
        try:
            with progress(settings.steps, "training") as advance:
                advance(at.step)
                for now in vae_task.training(task, at):
                    at = now
                    write_checkpoint(folder, vae_task.to_save(at), settings, before=kept)
                    kept = at.step
                    advance(settings.every)
            rows, pictures = vae_task.results(task, at)
        except KeyboardInterrupt:
            if kept is None:
                raise
            raise KeyboardInterrupt(f"step {kept:,} is kept: go on with --resume {folder}") from None
        compared = vae_task.margins(rows, settings.estimators)
        files = result_files("vae", settings, rows, time.monotonic() - began)
        files |= {"margins.csv": vae_task.margins_file(compared), "pictures.npz": npz(pictures)}
        files |= draw_figure(rows, pictures, independent, settings)
        report(rows, compared, independent, settings)
        write(folder, files)
        print(f"written to {folder}/: {', '.join(files)}, checkpoints/")
    raise_divergence(rows, settings)


def report(rows: list[dict[str, Any]], compared: list[dict[str, Any]], independent: float, settings: Vae) -> None:
    """The ends of the training runs, means over the seeds, and by how much the first estimator is ahead."""
    from experiments.vae_task import mean_and_half

    lines = []
    for name in settings.estimators:
        end = [r for r in rows if r["estimator"] == name and r["step"] == settings.steps]
        cells = (mean_and_half([r[key] for r in end]) for key in ("test_elbo", "iwae", "train_elbo", "squared_error"))
        shown = [f"{number(mean)} +- {number(half, 2)}" for mean, half in cells]
        lines.append([name, *shown, number(1e3 * end[0]["seconds"] / settings.steps / settings.seeds, 3)])
    print_table(
        ["estimator", "held-out ELBO", f"bound, K = {settings.bound_samples:,}", "training ELBO",
         "squared error of a pixel", "ms a step and seed"],
        lines,
        f"{settings.likelihood}, {settings.latents} latents, {settings.samples} samples an image, after "
        f"{settings.steps:,} steps: nats an image, mean and 95 % interval over {settings.seeds} seeds",
    )  # fmt: skip
    print(f"held-out log likelihood of pixels that are independent, without a z: {number(independent)} nats an image")
    if compared:
        print_table(
            ["held-out ELBO above that by", "at equal", "margin", "95 % interval", "verdict"],
            [
                [r["other"], f"{r['at']}, {number(r['place'])}", number(r["margin"], 3),
                 f"[{number(r['low'], 3)}, {number(r['high'], 3)}]", r["verdict"]]
                for r in compared
            ],
            f"{settings.estimators[0]}, of the same seeds: nats an image",
        )  # fmt: skip


def raise_divergence(rows: list[dict[str, Any]], settings: Vae) -> None:
    """After everything has been written: the weights of the last good step are kept.

    Raises:
        UsageError: at which step of which training run the ELBO or its gradient was not finite.
    """
    stopped = [
        f"{r['estimator']}, seed {r['seed']}: step {r['stopped_at']:,}"
        for r in rows
        if r["step"] == settings.steps and r["stopped_at"] >= 0
    ]
    if stopped:
        raise UsageError(
            f"--learning-rate {settings.learning_rate:g}: the ELBO, its gradient or the new weights were not finite "
            f"({'; '.join(stopped)}), where the last good weights were kept; give a smaller one"
        )


if __name__ == "__main__":
    command(Vae, run)
