"""The ways data can fail, told apart by who must act.

A bad request is a `ValueError`, raised where it is made. A rejected chip is no error at all: checks return a
reason, and reasons are counted. What is left is the world, and the world fails in a few ways.
"""


class DataError(Exception):
    """Something outside this program went wrong; the message says value, rule and remedy."""


class Transient(DataError):
    """Trying again may help: a timeout, a quota, a server that is busy. Only the transport of a source retries."""


class Missing(DataError):
    """What was asked for is not there: no scene, no band, ground outside the image."""


class Corrupt(DataError):
    """The bytes are there and wrong: a truncated file, a failed checksum, an unknown format version."""


class Denied(DataError):
    """The service knows us and says no, or does not know us: nothing helps until a person acts, so the run ends."""


class TooLarge(DataError):
    """The service refuses a request of this size. Only the source that asked catches it, and asks for less."""
