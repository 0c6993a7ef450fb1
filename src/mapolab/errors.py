"""The exceptions that end a command on purpose, each with its exit code.

Anything else that reaches the command line is a fault of the program and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in the command, the config or the files it names. The text is one paragraph that names the fix."""

    exit_code = 2


class RunError(Exception):
    """A run that mapolab stopped itself, as on a non-finite loss. The text is one paragraph that says where to look."""

    exit_code = 1


class Interrupted(Exception):
    """A run that was asked to stop, saved its state and can be continued by the same command.

    exit_code: 128 + the signal's number, as shells report it: 130 for SIGINT (Ctrl-C), 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code
