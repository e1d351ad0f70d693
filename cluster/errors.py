"""The one exception that this package shows to a user."""


class ClusterError(Exception):
    """A cluster could not be reached, started or used.

    The message states the rule, the offending value, what follows from it and what to do instead,
    so that a command can print it alone, without a traceback.
    """
