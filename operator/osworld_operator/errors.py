"""What can go wrong between the operator and the API server.

ClusterError
├── NotFoundError     404
├── ConflictError     409: somebody was faster; look again
├── RefusedError      other 4xx: the API server will say the same again
└── UnavailableError  5xx, 429, no connection, no answer in time
    └── NotLeadingError   another operator is the one writer, or none is: nothing was sent
"""

from http import HTTPStatus


class ClusterError(Exception):
    """A call to the API server failed."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Take the API server's own message and the HTTP status, None where there was no reply."""
        super().__init__(message)
        self.message = message
        self.status = status


class NotFoundError(ClusterError):
    """The object is not there."""


class ConflictError(ClusterError):
    """The object is there already, or is another one than the caller knows."""


class RefusedError(ClusterError):
    """The call as it is will never be taken."""


class UnavailableError(ClusterError):
    """The API server did not answer, or not now."""


class NotLeadingError(UnavailableError):
    """This operator may not write now."""


def cluster_error(status: int, message: str) -> ClusterError:
    """Return the error for a reply."""
    kinds: dict[int, type[ClusterError]] = {
        HTTPStatus.NOT_FOUND: NotFoundError,
        HTTPStatus.CONFLICT: ConflictError,
        HTTPStatus.TOO_MANY_REQUESTS: UnavailableError,
    }
    default = UnavailableError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else RefusedError
    return kinds.get(status, default)(message, status)
