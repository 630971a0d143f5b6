"""MAML-TRPO on any task family: `--family MODULE:ID`, the module from the working folder too."""

from metarl.cli.train import run_experiment

if __name__ == "__main__":
    run_experiment(description=__doc__)
