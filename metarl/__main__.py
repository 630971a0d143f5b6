"""`python -m metarl` is the `metarl` command."""

from metarl.cli.main import main

if __name__ == "__main__":
    main()
