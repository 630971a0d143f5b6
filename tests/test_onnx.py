"""Policies exported to ONNX give what they give in torch, for any number of rows."""

import hashlib
import importlib.util
import json

import onnxruntime
import pytest
import torch

from metarl import Config, Learner, UsageError
from metarl.cli.main import main
from metarl.learners.rl2 import RL2Config, RL2Learner
from metarl.policies.export import export_policy

SMALL = {"horizon": 3, "device": "cpu", "episodes": 2}


LEARNERS = {
    "clipped means": lambda: maml("envs:HalfCheetahDir-v0"),
    "a number": lambda: maml("envs:CartPoleParams-v0"),
    "of an image": lambda: maml("space_families:Space-image-v0"),
    "recurrent": lambda: RL2Learner(
        RL2Config(family="envs:Navigation2D-v0", trials=4, hidden_size=8, **SMALL)
    ),
}


def maml(family):
    return Learner(Config(family=family, meta_batch_size=2, **SMALL))


@pytest.mark.parametrize("kind", LEARNERS)
def test_the_model_gives_what_the_policy_gives(kind, tmp_path):
    learner = LEARNERS[kind]()
    adapted = learner.adapt(learner.family.task_env.task)
    policy = adapted.policy
    file = adapted.export(tmp_path, onnx=True)[-1]
    assert file.name == "policy.onnx"
    held = json.loads((tmp_path / "policy.json").read_text())["sha256"]
    assert held.keys() == {"policy.safetensors", "policy.pt2", "policy.onnx"}
    assert held["policy.onnx"] == hashlib.sha256(file.read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(str(file))
    adapted.export(tmp_path)  # without a model: none of another policy may stay
    assert not file.exists()
    assert [x.name for x in session.get_inputs()] == inputs_of(policy)
    assert [x.name for x in session.get_outputs()] == list(policy.results)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(5, *x.shape[1:], generator=generator) for x in policy.example(2)]
    named = zip(session.get_inputs(), inputs, strict=True)
    outputs = session.run(None, {x.name: value.numpy() for x, value in named})
    with torch.no_grad():
        expected = policy(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(expected, outputs, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-5)


def inputs_of(policy):
    if len(policy.example(1)) == 1:
        return ["observations"]
    return ["observations", "rewards", "actions", "began", "hidden"]


def test_without_the_extra_the_command_says_so_before_it_adapts(monkeypatch, capsys, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    with pytest.raises(SystemExit) as exit:
        main(["adapt", str(tmp_path / "absent"), "--onnx"])
    assert exit.value.code == 2
    assert "pip install 'metarl-suite[onnx]'" in capsys.readouterr().err
    with pytest.raises(UsageError, match="needs the extra onnx"):
        export_policy(None, tmp_path, {}, onnx=True)
