"""The one error of counting."""


class CountingError(Exception):
    """Something that the person at the keyboard can mend, said in one sentence."""
