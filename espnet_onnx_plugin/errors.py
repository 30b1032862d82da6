"""The one exception of this package that a user is meant to read."""


class PluginError(Exception):
    """A failure that has a remedy.

    Its message is one line that names the thing and what to do about it. Command
    lines print that line and exit with 1; no traceback, since the cause is not in
    this package.
    """
