"""The activator's own error responses, in OpenAI's format."""

import math

from aiohttp import web

RETRY_SECONDS = 30
"""OpenAI's client libraries obey Retry-After up to a minute."""
SOON_SECONDS = 1

BROKEN = "activator_broke"


class RefusalError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """Why, for programs and the metrics: one of a few."""
        self.message = message
        self.retry_after = retry_after
        """Seconds."""

    def response(self) -> web.Response:
        """Closes the connection, so that the next request is routed anew."""
        kind = "invalid_request_error" if self.status < web.HTTPInternalServerError.status_code else "server_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        headers = {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
        made = web.json_response({"error": error}, status=self.status, headers=headers)
        made.force_close()
        return made


def unavailable(code: str, message: str, retry_after: float = RETRY_SECONDS) -> RefusalError:
    return RefusalError(web.HTTPServiceUnavailable.status_code, code, message, retry_after)


def no_deployment() -> RefusalError:
    message = "no deployment has this port of the activator: it was deleted, or does not scale to zero any more"
    return RefusalError(web.HTTPNotFound.status_code, "no_deployment", message)


def stopping(name: str) -> RefusalError:
    message = (
        f"the activator that held this request for {name} is stopping; {name} is started all the same: send it again"
    )
    return unavailable("activator_stopping", message, SOON_SECONDS)


def full(what: str) -> RefusalError:
    return unavailable("too_many_waiting", f"{what}: send the request again later")


def too_large(most: int) -> RefusalError:
    message = f"the body is larger than the {most} bytes that the activator holds while no replica serves"
    return RefusalError(web.HTTPRequestEntityTooLarge.status_code, "body_too_large", message)


def broke() -> RefusalError:
    return RefusalError(web.HTTPInternalServerError.status_code, BROKEN, "the activator broke: see its log")
