"""`--read PATH`: the results of `.ci/gpu`, condensed into gpu.json and into the README's table."""

import json
from pathlib import Path
from typing import Any

from experiments.benchmark.readme import GPU, gpu_table
from experiments.common.errors import UsageError
from experiments.common.readme import README, readme_of, with_tables
from experiments.common.record import write

KIND = "rgrad .ci/gpu"
NEEDED = {"a1": "notes", "d1": "rows", "d2": "rows"}  # the parts behind the table. PyTorch may be missing
CONDENSED = ("about", "device", "versions", "measure", "stock JAX", "PyTorch")
Record = dict[str, Any]


def read_gpu(path: str) -> None:
    """Writes `gpu.json` and the table of the README from a file of `.ci/gpu`, or from such a `gpu.json`.

    Raises:
        UsageError: the file does not exist, is not one of these, is a rehearsal, or lacks a part that the table needs.
    """
    record = record_of(path)
    folder = readme_of("benchmark").parent
    text = with_tables((folder / README).read_text(encoding="utf-8"), {"gpu": gpu_table(record)})
    write(folder, {GPU.name: (json.dumps(record, indent=1) + "\n").encode(), README: text.encode()})
    print(f"written to {folder}/: {GPU.name}, {README}. The sentences below the table are not rewritten; check them")


def record_of(path: str) -> Record:
    """The condensed record of the file."""
    where = f"--read {path}"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}; give the gpu.json that .ci/gpu has written") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}; give the gpu.json that .ci/gpu has written") from None
    if isinstance(found, dict) and all(isinstance(found.get(name), str | dict) for name in CONDENSED):
        return found
    if not isinstance(found, dict) or found.get("kind") != KIND or not isinstance(found.get("parts"), dict):
        raise UsageError(f"{where}: this is not a result of .ci/gpu; give the gpu.json that it has written")
    if found.get("rehearsal"):
        raise UsageError(f"{where}: this is a rehearsal on the CPU; run .ci/gpu on a GPU, without --rehearse")
    try:
        missing = [name for name, section in NEEDED.items() if not found["parts"].get(name, {}).get(section)]
        if missing:
            raise UsageError(f"{where}: it has no results of {' and '.join(missing)}; run .ci/gpu --parts a,d")
        if found["parts"]["d1"].get("device") != "gpu":
            raise UsageError(f"{where}: it was not measured on a GPU; run .ci/gpu on one")
        return condensed(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{where}: this is not a result of .ci/gpu ({what}); give the gpu.json that it has written"
        ) from None


def condensed(raw: Record) -> Record:
    """The part of a run that is worth keeping: its machine, its checks, and every rate."""
    of = lambda part, section: raw["parts"].get(part, {}).get(section, {})
    rate = lambda row: float(f"{row['rate']:.4g}")
    pick = lambda rows, *names: {k: {n: row[n] for n in names if n in row} for k, row in rows.items()}
    device, day = of("a1", "notes")["device"], str(raw.get("started", ""))[:10]
    checks = {
        name: {
            "title": part.get("title"),
            "right": sum(c["ok"] for c in part["checks"].values()),
            "of": len(part["checks"]),
        }
        for name, part in raw["parts"].items()
        if part["checks"]
    }
    return {
        "about": f"One {device['kind']}, {day}. A draw is one normal of which both gradients of E[x^2] are made, with the means "
        "and variances of both. Rates are draws a second, without compilation except in sweeps.",
        "device": {name: value for name, value in device.items() if name != "memory"},
        "versions": of("a1", "notes")["versions"],
        "states": {name: part["state"] for name, part in raw["parts"].items()},
        "checks": checks,
        "measure": {f"N{label[1:]}": rate(row) for label, row in of("d1", "rows").items()},
        "stock JAX": {name: rate(best) for name, best in of("d2", "notes").get("best", {}).items()},
        "PyTorch": {n: {"rate": rate(b), "how": b["how"]} for n, b in of("d3", "notes").get("best", {}).items()},
        "long run": of("d4", "rows").get("long run", {}),
        "fits": pick(of("d5", "rows"), "rate", "seconds a step"),
        "sweep, compilation included": pick(of("d6", "rows"), "seconds, compilation included", "rate", "largest z"),
        "noise": {label: rate(row) for label, row in of("c1", "rows").items()},
        "fastest noise": of("c1", "notes").get("winners", {}),
        "integer operations a draw": pick(of("d7", "rows"), "integer operations per draw", "share of the peak"),
        "loops as CUDA graphs": of("d8", "rows"),
        "models": of("e1", "rows") | of("e2", "rows"),
    }  # fmt: skip
