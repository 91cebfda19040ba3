"""The one exception that a person's input can cause."""


class UserError(Exception):
    """Bad input, said in one line that names the value and the remedy.

    The command line prints it on stderr and exits with code 2; a Python caller can catch it. It
    is no `ValueError`, so that the reader of the command line passes it on as it is.
    """
