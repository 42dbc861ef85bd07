"""What a part receives: its section of the report, its time and its sizes; and jobs in threads."""

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any

from tests.gpu.report import Report, named, plain, say


class SkippedPart(Exception):
    """The part cannot run here. The message says why."""


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


class Context:
    """The surroundings of one part.

    Args:
        until: the time, as in `time.time()`, at which the part should be done.
        tiny: whether this is a rehearsal with tiny sizes on the CPU.
        workers: the number of threads that compile.
    """

    def __init__(self, report: Report, name: str, until: float, tiny: bool, workers: int):
        self.report, self.name, self.until, self.tiny, self.workers = report, name, until, tiny, workers
        self.mine = report.part(name)

    def left(self) -> float:
        """The seconds that are left."""
        return self.until - time.time()

    def enough(self, seconds: float, what: str) -> bool:
        """Whether this many seconds are left. If not, `what` is recorded as skipped."""
        if self.left() >= seconds:
            return True
        self.skip(what)
        return False

    def size(self, full: Any, tiny: Any) -> Any:
        return tiny if self.tiny else full

    @cached_property
    def chip(self) -> dict[str, str]:
        """The platform and the kind of JAX's first device. Every row and every check has them."""
        if "jax" not in sys.modules:
            return {"device": "none", "chip": "none"}
        device = sys.modules["jax"].devices()[0]
        return {"device": device.platform, "chip": device.device_kind}

    def row(self, label: str, **values: Any) -> None:
        """Record a measurement. It is on disk when this returns."""
        with self.report.lock:
            self.mine["rows"][label] = self.chip | plain(values)
            self.report.save()

    def note(self, key: str, value: Any) -> None:
        """Record something that is not a measurement, or that is derived from the rows."""
        with self.report.lock:
            self.mine["notes"][key] = plain(value)
            self.report.save()

    def check(self, label: str, ok: bool, **details: Any) -> bool:
        with self.report.lock:
            self.mine["checks"][label] = self.chip | {"ok": bool(ok)} | plain(details)
            self.report.save()
        if not ok:
            say(f"   {self.name} CHECK FAILED  {label}: {json.dumps(plain(details))[:400]}")
        return bool(ok)

    def failed(self, label: str, error: BaseException) -> None:
        """Record an exception as a check that failed."""
        text = "".join(traceback.format_exception(error))
        self.check(label, False, error=named(error), traceback=text[-4000:])

    def skip(self, what: str) -> None:
        with self.report.lock:
            self.mine["skipped"].append(what)
            self.report.save()

    def of(self, part: str, section: str, key: str, default: Any = None) -> Any:
        """What an earlier part has left in `rows` or `notes`."""
        return self.report.data["parts"].get(part, {}).get(section, {}).get(key, default)

    def in_threads(
        self,
        jobs: dict[str, Callable[[], Any]],
        limit: float = math.inf,
        each: Callable[[str, Any], None] | None = None,
    ) -> dict[str, Any]:
        """The results of jobs that mostly compile, by name. An exception is a result. Jobs without time are skipped.

        Args:
            limit: seconds for all jobs together. A job that is running by then continues, but its result is not used.
            each: called with the name and the result of each job as soon as it is done.
        """
        pool = ThreadPoolExecutor(self.workers)
        pending = {pool.submit(job): name for name, job in jobs.items()}
        results: dict[str, Any] = {}
        until = min(self.until, time.time() + limit)
        while pending and time.time() < until:
            done, _ = wait(pending, timeout=max(0.05, min(1.0, until - time.time())), return_when=FIRST_COMPLETED)
            for future in done:
                error, name = future.exception(), pending.pop(future)
                results[name] = error if error is not None else future.result()
                if each is not None:
                    each(name, results[name])
        for future, name in pending.items():
            self.skip(name if future.cancel() else f"{name} (started)")
        pool.shutdown(wait=False, cancel_futures=True)
        return results

    def limited(self, label: str, job: Callable[[], Any], seconds: float) -> Any:
        """The result of a job that may hang, e.g. a compilation.

        Raises:
            TimeoutError: it was not done in time.
        """
        late = TimeoutError(f"{label}: not compiled in {seconds:.0f} s")
        found = self.in_threads({label: job}, seconds).get(label, late)
        if isinstance(found, BaseException):
            raise found
        return found

    def checks_in_threads(self, jobs: dict[str, Callable[[], tuple[bool, dict[str, Any]]]]) -> None:
        """One check for each job, which returns whether it is right, and its numbers.

        A job that raises runs a second time after the others, in case it ran out of memory.
        """

        def each(name: str, found: Any) -> None:
            if not isinstance(found, BaseException):
                self.check(name, found[0], **found[1])

        raised = {k: x for k, x in self.in_threads(jobs, each=each).items() if isinstance(x, BaseException)}
        for name, error in raised.items():
            try:
                if self.left() > 5:
                    say(f"   {name}: {named(error, 150)}; it runs once more, on its own")
                    ok, details = jobs[name]()
                    self.check(name, ok, **details, note=f"raised while others ran: {named(error)}")
                    continue
            except Exception as again:
                error = again
            self.failed(name, error)
        checks = self.mine["checks"].values()
        say(f"   {sum(c['ok'] for c in checks)} of {len(checks)} checks are right")
