"""Every code block of the documentation runs, and every curve is explained.

Blocks of Python and of shell commands run, page by page and in their order, beside a small run of
HalfCheetahDir. What the README has as well is run by its own test. Other blocks are `text`, for
commands that need more than this, or `toml`. Blocks that include a file have their language in
braces; the build of the documentation checks that the file exists.
"""

import re

import pytest
import torch
from documentation import ROOT, blocks, broken_links, commands, run, run_line, train_small

from metarl.policies.normalisation import sums_of

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the run that the pages speak of, much smaller."""
    folder = tmp_path_factory.mktemp("docs")
    train_small(folder)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, trained):
    for language, code in blocks((DOCS / page).read_text()):
        assert language in ("bash", "python", "text", "toml")
        if code in README:
            continue
        if language == "python":
            run("-c", re.sub(r"iterations=\d+", "iterations=2", code), cwd=trained)
        elif language == "bash":
            for line in code.splitlines():
                if line not in README:
                    run_line(line, trained)


def test_there_are_pages_with_commands():
    assert len(PAGES) >= 10
    assert len(commands((DOCS / "guide.md").read_text())) == 8


def test_the_exported_policy_is_a_plain_torch_network(trained):
    text = (DOCS / "how-to" / "export.md").read_text()
    for line in commands(text):
        run_line(line, trained)
    (code,) = [code for _, code in blocks(text) if '["layers"]' in code]
    output = run("-c", code + "print(output(torch.zeros(1, 17)).shape)", cwd=trained)
    assert "[1, 6]" in output


def test_plain_weights_normalise_as_the_policy_does(tmp_path, monkeypatch):
    """A feature far from 0 that hardly varies: folded into a layer, float32 would lose it."""
    from metarl import Config, Learner

    family = {"family": "envs:CartPoleParams-v0", "episodes": 2, "horizon": 3}
    small = {"meta_batch_size": 2, "hidden_sizes": (8,), "device": "cpu"}
    learner = Learner(Config(**family, **small, normalise_observations=True))
    rows = 1000 + 1e-3 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    learner.policy.normaliser.add_sums(*sums_of(rows))
    adapted = learner.adapt({"cart_mass": 1.0, "pole_mass": 0.1}, 0)
    adapted.export(tmp_path / "policy")
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "how-to" / "export.md").read_text()
    (code,) = [code for _, code in blocks(text) if '["layers"]' in code]
    scope = {}
    exec(code, scope)
    parameters = {name: p.unsqueeze(0) for name, p in adapted.parameters.items()}
    expected = learner.policy.network.output(parameters, rows.unsqueeze(0))[0]
    torch.testing.assert_close(scope["output"](rows), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(adapted.policy(rows), expected.argmax(-1))


@pytest.mark.parametrize("kind", ["maml", "normalised", "oracle", "own", "rl2"])
def test_the_tensors_of_an_exported_policy_are_named(kind):
    from metarl import Config, Learner, RL2Config, RL2Learner

    small = {"family": "envs:Navigation2D-v0", "episodes": 2, "horizon": 3, "device": "cpu"}
    own = {"policy": "encoder"} if kind == "own" else {}
    own |= {"normalise_observations": True} if kind in ("own", "normalised") else {}
    own |= {"observe_task": True, "inner_steps": 0} if kind == "oracle" else {}
    learner = (
        RL2Learner(RL2Config(**small, trials=4, hidden_size=8))
        if kind == "rl2"
        else Learner(Config(**small, meta_batch_size=2, hidden_sizes=(8,), **own))
    )
    page = (DOCS / "how-to" / "export.md").read_text()
    policy = learner.adapt({"goal": [0.1, 0.1]}, 0).policy
    named = {name for name in policy.weights() if f"`{name}`" in page}
    of_class = set(policy.module.state_dict()) if kind == "own" else set()
    assert policy.weights().keys() == named | of_class
    assert ("layers" in policy.description()) == (kind not in ("own", "rl2"))
    assert all(f"`{name}` " in page for name in policy.results)


def test_every_tag_is_explained():
    from metarl import Config, Learner
    from metarl.learners.rl2 import RL2Config, RL2Learner

    family, curves = "envs:Navigation2D-v0", (DOCS / "how-to" / "curves.md").read_text()
    tags = set(Learner(Config(family=family, meta_batch_size=2, horizon=3)).iterate())
    tags |= set(RL2Learner(RL2Config(family=family, trials=4, horizon=3)).iterate())
    for tag in tags - {"iteration", "env_steps"}:
        group = tag.split("/")[0]
        explained = f"`{tag}`" in curves or tag.startswith("return/step_")
        assert explained or f"`{group}/...`" in curves, tag


@pytest.mark.parametrize("page", PAGES)
def test_links_to_pages_lead_somewhere(page):
    assert not broken_links(DOCS / page)
