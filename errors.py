"""The one exception that a person's input can cause."""


class UserError(ValueError):
    """Bad input, said in one line that names the value and the remedy.

    The command line prints it on stderr and exits with code 2; a Python caller can catch it.
    """
