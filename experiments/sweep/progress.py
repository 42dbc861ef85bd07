"""The progress of a sweep: cells done, cells and draws per second, and the time left."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY = 10.0  # seconds between lines if there is no terminal


class Meter:
    """Counts cells and draws. Shows a progress bar on a terminal, and otherwise prints a line to stdout now and then."""

    def __init__(self, cells: int):
        self.total, self.done, self.made, self.draws = float(cells), 0.0, 0.0, 0.0
        self.began = self.said = time.monotonic()
        console = Console(stderr=True)
        self.bar = (
            Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True)
            if console.is_terminal
            else None
        )
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("compiling", total=cells)

    def skip(self, cells: float) -> None:
        """Counts cells that were already done."""
        self.done += cells

    def advance(self, cells: float, draws: float) -> None:
        self.done += cells
        self.made += cells
        self.draws += draws
        if self.bar:
            self.bar.update(self.task, completed=self.done, description=self.line())
        elif time.monotonic() - self.said > EVERY:
            self.said = time.monotonic()
            print(self.line(), flush=True)

    def line(self) -> str:
        left = self.seconds * max(0.0, self.total - self.done) / max(self.made, 1e-9)
        return (
            f"{self.done:,.0f} of {self.total:,.0f} cells, {self.made / self.seconds:,.3g} cells/s, "
            f"{self.draws / self.seconds:.2e} draws/s, {_time(left)} left"
        )

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self.began)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
