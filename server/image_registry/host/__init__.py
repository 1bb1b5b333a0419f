"""What the product needs from the operating system: child processes that never outlive it, and addresses."""


class StartError(Exception):
    """Something could not be started; the text is one clear sentence for the person who started it."""
