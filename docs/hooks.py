"""Pages that are made while the site is built: the API reference, the results, and figures."""

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
RESULTS = EXPERIMENTS / "benchmarks" / "results"
TITLES = {
    "families": "Speed of families",
    "h200": "Speed on an H200",
    "two_cores": "Speed on two cores",
    "learning": "Families and settings",
}
"""Headings of result files whose names do not say enough."""
ROOMS = (
    *("tasks", "learners", "outer", "maml", "sampling", "policies", "simulation", "evaluation"),
    *("runs", "studies", "support", "cli"),
)
"""The folders of metarl, those that a reader needs first at the beginning."""


def modules(folder: Path) -> list[str]:
    """The public modules of a folder by their dotted names."""
    files = sorted(folder.glob("[!_]*.py"))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


def reference(heading: str, folder: Path) -> str:
    """A page with every module of a folder, under the docstring of its `__init__.py`."""
    summary = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    sections = [f"# {heading}", summary]
    for name in modules(folder):
        sections.append(f"## `{name}`")
        sections.append(f"::: {name}\n    options:\n      show_root_heading: false")
    return "\n\n".join(sections) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages that `on_files` makes to the navigation."""
    measured = [{title(path): f"results/{path.stem}.md"} for path in results()]
    config.nav.append({"Results": [{"Tables": "results.md"}, *measured]})
    pages = [{f"metarl.{room}": f"reference/{room}.md"} for room in ROOMS]
    config.nav.append({"API reference": [*pages, {"envs": "reference/envs.md"}]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Makes the pages, and brings the figures of the experiments along."""
    folders = {f"metarl.{room}": ROOT / "metarl" / room for room in ROOMS} | {"envs": ROOT / "envs"}
    for name, folder in folders.items():
        page = f"reference/{folder.name}.md"
        files.append(File.generated(config, page, content=reference(name, folder)))
    for path in results():
        block = f'<div class="results" markdown>\n\n```text\n{path.read_text()}```\n\n</div>\n'
        text = f"---\nhide: [toc]\n---\n# {title(path)}\n\n{block}"
        files.append(File.generated(config, f"results/{path.stem}.md", content=text))
    for path in EXPERIMENTS.rglob("*.png"):
        name = path.relative_to(EXPERIMENTS).as_posix()
        files.append(File.generated(config, f"figures/{name}", abs_src_path=str(path)))
    return files


def results() -> list[Path]:
    """The measured results, text files."""
    return sorted(RESULTS.glob("*.txt"))


def title(path: Path) -> str:
    """The heading of a result file."""
    return TITLES.get(path.stem, path.stem.replace("_", " ").capitalize())
