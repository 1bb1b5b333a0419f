"""What the product needs from the operating system: child processes that never outlive it, and addresses."""


class StartError(Exception):
    """Something could not be started; the text is one clear sentence for the person who started it."""


def with_variable(option: str) -> str:
    """A command-line option and the variable of the same meaning, for whom can't pass options (`make run`, Compose)."""
    return f"{option} (IMAGE_REGISTRY_{option.removeprefix('--').replace('-', '_').upper()})"
