"""Runs that are killed at random moments: what they print is true, no result is half-written, and the next run ends the same.

The moments depend on a seed. A failure prints it, and `RGRAD_KILLS=SEED pytest ...` repeats the same moments.
"""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from experiments.common.record import FIGURES, LEFTOVER
from tests.experiments.conftest import load

ROOT = Path(__file__).parent.parent.parent
KILLED = {
    "sweep": ("--axes", "loc=-1:2:6", "scale=1,2", "n=10", "--estimators", "score_function", "--replicates", "3000",
              "--chunk", "3"),
    "vae": ("--hidden", "8", "--latents", "2", "--batch", "8", "--steps", "1000", "--every", "20", "--seeds", "2", "--bound-k",
            "5"),
    "logistic": ("--config", ROOT / "configs" / "logistic_small.toml", "--steps", "50"),
    "fit": ("--synthetic", "3", "2", "50", "--objectives", "squared_error", "--estimators", "reparameterized", "--steps",
            "100", "--fits", "10", "--replicates", "100"),
    "compare": ("--config", ROOT / "configs" / "compare_small.toml", "--estimators", "reparameterized", "--budget", "0.1"),
}  # fmt: skip
SIGNALS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT] * 2,
    "SIGTERM twice": [signal.SIGTERM] * 2,
}
KEPT = re.compile(
    r"nothing was written|(the finished chunks are|step [\d,]+ is) kept; continue with --resume killed|"
    r"the results( without the figure)? are in killed/"
)
TIMES = {"seconds"}
# A random moment is one after a random stage, because most of the life of a small run is its start.
STAGES = [
    lambda folder: True,
    lambda folder: folder.exists(),
    lambda folder: any(path.suffix in (".chunk", ".checkpoint", ".json") for path in folder.rglob("[!.]*")),
]


def start(name, folder, out):
    # Without the tests' compilation cache: reading it may print warnings of its own, and a kill may damage it.
    env = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, KILLED[name]), "--out", out]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=env | {"PYTHONPATH": str(ROOT)}, stdout=pipe, stderr=pipe, text=True
    )


def rows(folder):
    """The rows of result.json and table.csv, without times. None for a file that is not there."""
    without = lambda found: [{k: v for k, v in row.items() if k not in TIMES} for row in found]
    result, table = folder / "result.json", folder / "table.csv"
    return (
        without(json.loads(result.read_text())["rows"]) if result.exists() else None,
        without(csv.DictReader(table.open())) if table.exists() else None,
    )


def leftovers(folder):
    return [path.name for path in folder.rglob(".*") if LEFTOVER.fullmatch(path.name)]


def listens(process):
    """Whether the process has its handlers. Before that, Python starts for 30 ms, and signals have their default effect."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1


class Killer:
    """Kills runs in `home`, and knows how each experiment ends if it is not killed."""

    def __init__(self, home, run_main, seed):
        self.home, self.run_main, self.seed, self.wholes = home, run_main, seed, {}

    def whole(self, name):
        """The seconds from each stage to the end of an undisturbed run, and its rows."""
        if name not in self.wholes:
            folder, times = self.home / f"whole-{name}", []
            process = start(name, self.home, folder.name)
            while process.poll() is None and len(times) < len(STAGES):
                if STAGES[len(times)](folder):
                    times.append(time.monotonic())
                time.sleep(0.001)
            _, err = process.communicate(timeout=300)
            assert (process.returncode, err) == (0, "")
            self.wholes[name] = [time.monotonic() - began for began in times], rows(folder)
        return self.wholes[name]

    def kill(self, name, signals, number):
        """Kills a run at a random moment of its life, checks what is left, and runs it again. Returns how it ended."""
        try:
            return self._kill(name, signals, number)
        except AssertionError as error:
            error.add_note(f"repeat it with RGRAD_KILLS={self.seed}: {name}, kill {number}")
            raise

    def _kill(self, name, signals, number):
        chance = random.Random(f"{self.seed} {number}")
        left, truth = self.whole(name)
        home = self.home / str(number)
        home.mkdir()
        folder = home / "killed"
        process = start(name, home, "killed")
        while signals[0] != signal.SIGKILL and process.poll() is None and not listens(process):
            time.sleep(0.001)
        stage = chance.randrange(len(left))
        while process.poll() is None and not STAGES[stage](folder):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, left[stage]))
        for signum in signals:
            process.send_signal(signum)
            time.sleep(chance.uniform(0, 0.01))
        _, err = process.communicate(timeout=60)
        ended = self.check(name, folder, process.returncode, err, signals, truth)
        self.again(name, home, truth)
        return ended

    def check(self, name, folder, status, err, signals, truth):
        whole = [(found is None, found == true) for found, true in zip(rows(folder), truth, strict=True)]
        assert all(any(either) for either in whole), "a result is half-written or wrong"
        complete = all(same for _, same in whole)
        signum = signals[0]
        if status == 0 or (status == -signum != -signal.SIGKILL):  # it had ended, or was about to end
            assert complete
            assert all((folder / figure).exists() for figure in FIGURES)
            assert err == ""
            return "had ended"
        if signum == signal.SIGKILL:
            assert status == -signum
            return "killed"
        assert status == 128 + signum
        if err == "":
            assert len(signals) == 2
            return "ended at once"
        assert err.count("\n") == 1
        said = err.removeprefix("interrupted; ").rstrip("\n")
        assert KEPT.fullmatch(said), err
        if len(signals) == 1:
            assert leftovers(folder) == []
        if said == "nothing was written":
            # The second signal does not wait until an empty folder is removed.
            assert not folder.exists() or (len(signals) == 2 and not any(folder.iterdir()))
        elif "the results" in said:
            assert complete
            assert "without" in said or all((folder / figure).exists() for figure in FIGURES)
        else:
            assert self.resumable(name, folder)
        return re.sub(r"[\d,]+ is", "N is", said).partition(";")[0]

    def resumable(self, name, folder):
        return (folder / "plan.json").exists() or any(folder.glob("checkpoints/*.checkpoint"))

    def again(self, name, home, truth):
        folder = home / "killed"
        if self.resumable(name, folder):
            flags = [*([] if name == "sweep" else KILLED[name]), "--resume", folder]
        else:
            flags = [*KILLED[name], "--out", folder]
        status, _, err = self.run_main(*load(name), *flags)
        assert (status, err) == (0, "")
        assert rows(folder) == truth
        assert leftovers(home) == []


@pytest.fixture
def killer(tmp_path, run_main):
    seed = int(os.environ.get("RGRAD_KILLS", random.SystemRandom().randrange(10**6)))
    return Killer(tmp_path, run_main, seed)


def test_a_few_kills(killer):
    for number, signals in enumerate(list(SIGNALS.values())[:1]):
        killer.kill("sweep", signals, number)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_fifty_kills(killer, capsys):
    """Every experiment with every signal, twice."""
    counts = Counter()
    for number in range(50):
        name = list(KILLED)[number % 5]
        which = list(SIGNALS)[number // 5 % 5]
        ended = killer.kill(name, SIGNALS[which], number)
        counts[name, which, ended] += 1
        with capsys.disabled():
            print(f"{number}: {name}, {which}: {ended}", flush=True)
    with capsys.disabled():
        print(f"RGRAD_KILLS={killer.seed}")
        for (name, which, ended), count in sorted(counts.items()):
            print(f"{count} {name}, {which}: {ended}")
