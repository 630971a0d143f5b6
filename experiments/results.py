"""The tables of results: trains what they show, records it, and writes the page.

    python experiments/results.py run FAMILY [NAME ...]   trains the runs that a table lacks
    python experiments/results.py record FAMILY           records the runs that are finished
    python experiments/results.py add RUN_FOLDER NAME     records one long training run
    python experiments/results.py page                    writes docs/results.md from the records

A table is a comparison of `metarl compare`, in the folder `comparisons`. Its record is a file of
experiments/results, from which alone the page is written. Seeds that another machine has recorded
stay there, if they had as many iterations and tasks.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results_page import BLOCK, page

from metarl.learners.config import RunConfig
from metarl.runs.folder import CONFIG, EVALUATION, METRICS
from metarl.runs.loading import read_config
from metarl.studies.comparison import Comparison, is_finished, train_runs, with_horizon
from metarl.support.files import replace_durably
from metarl.support.options import option
from metarl.support.types import Json

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "experiments" / "results"
PAGE = ROOT / "docs" / "results.md"
NAMES = ("maml-trpo", "promp", "e-maml")
CONTROLS = ("random", "pretrained", "oracle", "rl2")


def comparison(family: str, **sizes: int) -> Comparison:
    """The comparison behind the table of a family."""
    return Comparison(f"envs:{family}-v0", preset="tuned", algorithms=NAMES, controls=CONTROLS,
                      **sizes)  # fmt: skip


TABLES = {
    "Navigation2D": comparison("Navigation2D"),
    "HalfCheetahDir": comparison("HalfCheetahDir", iterations=60),
    "HalfCheetahVel": comparison("HalfCheetahVel", iterations=60, seeds=9),
    "AntDir": comparison("AntDir", iterations=60, meta_batch_size=10),
    "AntVel": comparison("AntVel", iterations=60, meta_batch_size=10),
    "AntGoal": comparison("AntGoal", iterations=60, meta_batch_size=10),
    "Walker2dParams": comparison("Walker2dParams", iterations=40, episodes=10),
    "HopperParams": comparison("HopperParams", iterations=40, episodes=10),
    "SwimmerVel": comparison("SwimmerVel", iterations=40, episodes=10),
    "BernoulliBandit": comparison(
        "BernoulliBandit", iterations=150, meta_batch_size=40, episodes=10, eval_tasks=400
    ),
    "TabularMDP": comparison("TabularMDP", iterations=200, meta_batch_size=40, eval_tasks=200),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and does what it asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "record"):
        command = commands.add_parser(name)
        command.add_argument("family", choices=TABLES)
        command.add_argument("names", nargs="*", choices=(*NAMES, *CONTROLS, []))
        command.add_argument("--run-dir", type=Path, help="folder of the comparison")
    commands.choices["run"].add_argument(
        "--seeds", type=int, nargs="+", help="train these alone, not all of the table"
    )
    add = commands.add_parser("add")
    add.add_argument("run", type=Path)
    add.add_argument("name")
    commands.add_parser("page")
    options = parser.parse_args(arguments)
    if options.command == "page":
        PAGE.write_text(page(TABLES, RECORDS))
    elif options.command == "add":
        write(RECORDS / "long" / f"{options.name}.json", long_record(options.run))
    else:
        whole = replace(TABLES[options.family], run_dir=options.run_dir)
        if options.command == "run":
            seeds = options.seeds or range(1, whole.seeds + 1)
            if min(seeds) < 1 or max(seeds) > whole.seeds:
                parser.error(f"--seeds: those of this table are 1 to {whole.seeds}")
            names = options.names or whole.names
            train_runs(whole, [(name, seed) for name in names for seed in seeds])
        path = RECORDS / f"{options.family}.json"
        before = json.loads(path.read_text())["rows"] if path.exists() else {}
        whole = with_horizon(whole)
        found = {n: row(whole, n) for n in whole.names if finished_seeds(whole, n)}
        if not found:
            parser.error(f"no run of {whole.folder} is finished, with the options of the table")
        rows = before | {n: joined(before.get(n, new), new) for n, new in found.items()}
        write(path, {"machine": machine(), "rows": rows})


def finished_seeds(whole: Comparison, name: str) -> list[int]:
    """Seeds whose run was trained, and evaluated as the comparison does."""
    return [s for s in range(1, whole.seeds + 1) if is_finished(whole, name, s)]


def row(whole: Comparison, name: str) -> Json:
    """What the page shows of the runs of one name."""
    seeds = finished_seeds(whole, name)
    folders = [whole.run_folder(name, seed) for seed in seeds]
    reports = [json.loads((folder / EVALUATION).read_text()) for folder in folders]
    configs = [json.loads((folder / CONFIG).read_text()) for folder in folders]
    histories = [metrics(folder) for folder in folders]
    last = [lines[-1] if lines else {} for lines in histories]
    returns = np.array(
        [[task["returns"] for task in r["splits"]["test"]["tasks"]] for r in reports]
    )  # [seeds, tasks, steps + 1]
    errors = returns.std(1, ddof=1) / returns.shape[1] ** 0.5
    return {
        "seeds": seeds,
        "tasks": returns.shape[1],
        "means": returns.mean(1).round(4).tolist(),
        "standard_errors": errors.round(4).tolist(),
        "env_steps": [line.get("env_steps", 0) for line in last],
        "minutes": [round(line.get("seconds", 0.0) / 60, 1) for line in last],
        "iterations": [report["iteration"] for report in reports],
        "commits": sorted({config["git_commit"][:7] for config in configs}),
        "training": {
            when: [means_of_blocks(lines, f"return/{when}") for lines in histories]
            for when in ("before", "after")
        },
    }


def joined(before: Json, new: Json) -> Json:
    """A row with the seeds of both; a seed of `before` stays if its sizes are those of `new`."""
    sizes = {(new["tasks"], iterations) for iterations in new["iterations"]}
    kept = [
        i
        for i, seed in enumerate(before["seeds"])
        if seed not in new["seeds"] and (before["tasks"], before["iterations"][i]) in sizes
    ]
    if not kept:
        return new
    order = np.argsort([before["seeds"][i] for i in kept] + new["seeds"])

    def both(old: list[Any], own: list[Any]) -> list[Any]:
        values = [old[i] for i in kept] + own
        return [values[i] for i in order]

    by_seed = ("seeds", "means", "standard_errors", "env_steps", "minutes", "iterations")
    return new | {
        **{name: both(before[name], new[name]) for name in by_seed},
        "commits": sorted({*before["commits"], *new["commits"]}),
        "training": {
            when: both(before["training"][when], lists) for when, lists in new["training"].items()
        },
    }


def means_of_blocks(lines: list[dict[str, float]], name: str) -> list[float]:
    """The means of a metric over so many iterations each, of whole blocks."""
    starts = range(0, len(lines) - BLOCK + 1, BLOCK)
    return [round(float(np.mean([m[name] for m in lines[i : i + BLOCK]])), 2) for i in starts]


def long_record(folder: Path) -> dict[str, object]:
    """What the page shows of a long training run."""
    lines = metrics(folder)
    record: dict[str, object] = {
        "machine": machine(),
        "commit": json.loads((folder / CONFIG).read_text())["git_commit"][:7],
        "command": command_of_run(replace(read_config(folder), iterations=len(lines))),
        "env_steps": [line["env_steps"] for line in lines[BLOCK - 1 :: BLOCK]],
        "minutes": round(lines[-1]["seconds"] / 60, 1),
        **{when: means_of_blocks(lines, f"return/{when}") for when in ("before", "after")},
    }
    if "success/after" in lines[-1]:
        record["success"] = {
            when: means_of_blocks(lines, f"success/{when}") for when in ("before", "after")
        }
    if (folder / EVALUATION).exists():
        record["held_out"] = held_out(json.loads((folder / EVALUATION).read_text()))
    return record


def held_out(report: Json) -> dict[str, object]:
    """What the page shows of an evaluation: by inner step, on the tasks of the split test."""
    test = report["splits"]["test"]
    steps = test["steps"]
    return {
        "tasks": len(test["tasks"]),
        "episodes": [step["episodes"] for step in steps],
        "means": [round(step["mean"]["value"], 2) for step in steps],
        "success": [round(step["success"], 4) for step in steps if "success" in step],
    }


def command_of_run(config: RunConfig) -> str:
    """The command line of a training run, without options that change no number."""
    given = config.to_json()
    words = [f"metarl train --family {given['family']}"]
    if config.learner != "maml":
        words.append(f"--learner {config.learner}")
    for name, value in given.items():
        if name in {"family", *config.changeable} - {"iterations"}:
            continue
        if value == json.loads(json.dumps(config.defaults.get(name))):
            continue
        if isinstance(value, bool):
            words.append(option(name if value else f"no_{name}"))
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, dict):
            values = [word for pair in value.items() for word in pair]
        words.append(" ".join((option(name), *map(str, values))))
    return " ".join(words)


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    path = folder / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def machine() -> str:
    """The processor of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {os.cpu_count()} cores"


def write(path: Path, record: dict[str, object]) -> None:
    """Writes a record with one line for each entry of it, and of a table's rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: json.dumps(value) for name, value in record.items()}
    if isinstance(rows := record.get("rows"), dict):
        entries["rows"] = block({name: json.dumps(held) for name, held in rows.items()}, 1)
    replace_durably(path, (block(entries, 0) + "\n").encode())


def block(entries: dict[str, str], depth: int) -> str:
    """A JSON object of texts that are JSON, one line each."""
    lines = ",\n".join(f"{' ' * depth} {json.dumps(n)}: {text}" for n, text in entries.items())
    return f"{{\n{lines}\n{' ' * depth}}}"


if __name__ == "__main__":
    main()
