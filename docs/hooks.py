"""Pages that are made while the site is built: the API reference, the results, and figures.

The pages of `docs` link to what these are made from, so that their links lead somewhere in a
checkout too.
"""

import ast
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets links to files outside `docs` lead to the pages that are made from them."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def on_the_site(link: re.Match[str]) -> str:
        made = made_from((folder / link[1]).resolve())
        return link[0] if made is None else f"]({os.path.relpath(made, folder)}"

    return re.sub(r"\]\(([^)#:]+)", on_the_site, markdown)


def made_from(path: Path) -> Path | None:
    """The page or the figure that the site has of a file or a folder."""
    docs = ROOT / "docs"
    if path.parent == RESULTS and path.suffix == ".txt":
        return docs / "results" / f"{path.stem}.md"
    if path.is_relative_to(EXPERIMENTS) and path.suffix == ".png":
        return docs / "figures" / path.relative_to(EXPERIMENTS)
    if path.parent == ROOT / "metarl" or path == ROOT / "envs":
        return docs / "reference" / f"{path.name}.md"
    return None


def results() -> list[Path]:
    """The measured results, text files."""
    return sorted(RESULTS.glob("*.txt"))


def title(path: Path) -> str:
    """The heading of a result file."""
    return TITLES.get(path.stem, path.stem.replace("_", " ").capitalize())
