"""MAML with TRPO on any task family: `--family MODULE:ID`.

The module may be in the working folder.
"""

from metarl.cli.train import run_experiment

if __name__ == "__main__":
    run_experiment(description=__doc__)
