"""The one exception that means: what was asked for cannot be done as asked."""


class UsageError(Exception):
    """A request that cannot be met; its message is one line: what, where, what would be right.

    The command line prints the message and exits with status 2.
    """
