"""The exceptions of the library."""


class UsageError(Exception):
    """A request that cannot be met; its message is one line: what, where, what would be right.

    The command line prints the message and exits with status 2.
    """


class WorkerError(Exception):
    """A worker process failed: which, at which environment and task, and its own traceback."""
