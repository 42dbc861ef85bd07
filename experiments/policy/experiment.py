"""Which policy gradient is right, which is biased, and which trains best?"""

import time
from pathlib import Path

import jax
from numpyro.distributions.distribution import validation_enabled

from experiments.common.checkpoint import latest, write_checkpoint
from experiments.common.interrupt import held, keep
from experiments.common.progress import Advance, progress
from experiments.common.readme import readme_of
from experiments.common.record import output_folder, result_files, rewrite_readme, saved
from experiments.policy import cartpole_study as cartpole
from experiments.policy.figure import draw_figure
from experiments.policy.found import PolicyFound, curves_file
from experiments.policy.language import study_language, work_language
from experiments.policy.mdp import study_grid, work_grid
from experiments.policy.readme import readme_tables
from experiments.policy.report import report
from experiments.policy.settings import PolicySettings

SHARE = {"sequences": 40.0, "grid": 15.0, "cartpole": 45.0}  # of the progress bar


def run(settings: PolicySettings) -> int:
    checkpoint = None if settings.resume is None else latest(Path(settings.resume), settings, grows="")
    readme = readme_of("policy") if settings.readme else None
    began = time.monotonic()
    keys = dict(zip(SHARE, jax.random.split(jax.random.key(settings.seed), 3), strict=True))
    with output_folder(settings.out or settings.resume, "policy") as folder, validation_enabled(False):
        kept = None
        if checkpoint is not None and folder.resolve() == Path(settings.resume or "").resolve():
            kept = checkpoint.step
            keep(_message(kept, folder))
        with progress(sum(SHARE[part] for part in settings.parts), "measuring and training") as advance:
            found = PolicyFound()
            if "cartpole" in settings.parts:  # first, because it is the one that can be resumed
                place, training, end = jax.random.split(keys["cartpole"], 3)
                at = cartpole.first_training(settings, place)
                at = at if checkpoint is None else cartpole.restored(settings, checkpoint, place)
                done = 0.0
                for now in cartpole.pieces(settings, at, training):
                    at = now
                    with held():
                        write_checkpoint(folder, cartpole.to_save(at), settings, before=kept)
                        kept = at.piece
                        keep(_message(kept, folder))
                    advance(SHARE["cartpole"] * (cartpole.share_done(settings, at) - done))
                    done = cartpole.share_done(settings, at)
                found = found._replace(cartpole=cartpole.found_of(settings, at, end))
            if "sequences" in settings.parts:
                step = _share(advance, SHARE["sequences"] / work_language(settings))
                found = found._replace(language=study_language(settings, keys["sequences"], step))
            if "grid" in settings.parts:
                step = _share(advance, SHARE["grid"] / work_grid(settings))
                found = found._replace(grid=study_grid(settings, keys["grid"], step))
        files = result_files("policy", settings, found.rows, time.monotonic() - began)
        files |= {"curves.csv": curves_file(found, settings)}
        with saved(folder, files, lambda: draw_figure(found, settings)) as figures:
            wrong = report(found, settings)
            also = ["checkpoints/"] if kept is not None else []
            print(f"written to {folder}/: {', '.join([*files, *figures, *also])}")
        if readme is not None and not wrong:
            rewrite_readme(readme, readme_tables(found, settings), figures)
    return 1 if wrong else 0


def _share(advance: Advance, part: float) -> Advance:
    return lambda done: advance(part * done)


def _message(piece: int, folder: Path) -> str:
    return f"piece {piece:,} of the training is kept; continue with --resume {folder}"
