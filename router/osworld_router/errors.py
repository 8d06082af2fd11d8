"""Errors of the router that are no faults yet.

``RouterError``
├── ``StartError``          the router cannot start; the message is one sentence for a person
├── ``UpstreamError``       no usable reply came from an env server; becomes ``infra/env_down``
│   └── ``EnvLost``         the env server missed its probes during a call
├── ``BadReply``            what an env server sent is no HTTP, or could be misunderstood; becomes one of these two
├── ``TransferBroken``      an env server failed after its reply had begun; the client's connection is cut
└── ``ClientGone``          the client closed its connection; there is nobody to answer

What a client is told is a fault of `osworld_contract.faults`.
"""


class RouterError(Exception):
    """Base of all errors of this package."""


class StartError(RouterError):
    """The router cannot start."""


class UpstreamError(RouterError):
    """No usable reply came from an env server.

    Attributes:
        phase: How far the call got: ``connect``, ``head`` or ``probe``.
        cause: Name of the error underneath.
    """

    def __init__(self, message: str, *, phase: str, cause: str = "") -> None:
        super().__init__(message)
        self.phase = phase
        self.cause = cause


class EnvLost(UpstreamError):
    """The env server missed its probes during a call: a power cut sends no reset packet."""


class BadReply(RouterError):
    """What an env server sent is no HTTP, or could be misunderstood."""


class TransferBroken(RouterError):
    """An env server failed after its reply had begun."""


class ClientGone(RouterError):
    """The client closed its connection."""
