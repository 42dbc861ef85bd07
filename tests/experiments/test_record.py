"""Folders of results: complete files, one run at a time, and nothing left of runs that failed."""

import os
import time
from pathlib import Path

import pytest

from experiments.common import record
from experiments.common.checkpoint import Saved, write_checkpoint
from experiments.common.errors import UsageError
from experiments.common.interrupt import kept
from experiments.common.record import output_folder, remove_leftovers, saved
from experiments.vae import VaeSettings
from tests.experiments.conftest import load

QUICK = {
    "variance": ("--num-samples", "4", "--replicates", "100"),
    "vae": ("--steps", "2", "--every", "2", "--seeds", "2"),
}


@pytest.mark.parametrize("name", QUICK)
def test_a_second_run_in_the_same_folder_is_refused(name, run_main):
    """The refusal is immediate, and the folder of the first run stays."""
    with output_folder("a", name):
        status, out, err = run_main(*load(name), *QUICK[name], "--out", "a")
        assert (status, out) == (2, "")
        assert err == "error: --out a: another run is writing into this folder; wait for it, or stop it first\n"
        assert Path("a").exists()
    assert not Path("a").exists()


def test_a_folder_that_another_run_makes_in_the_same_moment(tmp_path, monkeypatch):
    """It appears after this run has looked for it."""
    monkeypatch.chdir(tmp_path)
    mkdir, times = Path.mkdir, []

    def late(self, *args, **kwargs):
        times.append(self)
        if len(times) == 1:
            mkdir(self, parents=True)
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", late)
    with output_folder(None, "variance") as folder:
        assert folder.name == f"{times[0].name}-1"


def test_two_runs_in_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    with output_folder(None, "variance") as first, output_folder(None, "variance") as second:
        assert (first, second) == (Path("results/variance/now"), Path("results/variance/now-1"))
        (second / "result.json").touch()
    assert [p.name for p in Path("results/variance").iterdir()] == ["now-1"]  # an empty folder is removed


def test_leftovers_of_killed_writes_are_removed(tmp_path):
    names = [f".result.json.{'0' * 32}", f".probe.{'0' * 32}", ".lock-0", ".result.json", "result.json"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[2:])


def test_a_full_disk_or_a_lost_folder_leaves_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text("old")
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match="No space left on device; free some space"):
        record.write(tmp_path, {"result.json": b"new", "table.csv": b"new"})
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "old"


def test_the_files_say_what_is_kept(tmp_path):
    """The sentence for an interrupt, after the files and after the figures."""

    def draw():
        assert kept() == f"the results without the figure are in {tmp_path}/"
        assert (tmp_path / "result.json").read_text() == "new"
        return {"figure.png": b"new"}

    with saved(tmp_path, {"result.json": b"new"}, draw):
        assert kept() == f"the results are in {tmp_path}/"
        assert (tmp_path / "figure.png").read_text() == "new"


def test_a_killed_checkpoint_is_removed_by_the_next(tmp_path):
    place = tmp_path / "checkpoints"
    place.mkdir()
    (place / f".10.checkpoint.{'0' * 32}").touch()
    write_checkpoint(tmp_path, Saved(10, [], []), VaeSettings(), None)
    assert [p.name for p in place.iterdir()] == ["10.checkpoint"]
