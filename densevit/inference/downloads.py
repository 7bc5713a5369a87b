"""Downloads images for `predict` with limits on size, time and redirects.

The caller may give any address, including one of this machine. A server may redirect only to http and https, and not
from a public address into the caller's network.
"""

import contextlib
import functools
import http.client
import ipaddress
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

from densevit.errors import DataError

URL_TIMEOUT = 20.0
"""Seconds without a response after which a download fails."""
URL_SECONDS = 120.0
"""Largest total duration of a download in seconds."""
URL_BYTES = 256 * 2**20
"""Largest size of a downloaded image in bytes."""

SCHEMES = ("http://", "https://")


def download(url: str) -> bytes:
    """Downloads an http or https URL. Raises DataError beyond the limits above, and for forbidden redirects."""
    check_scheme(url)
    with _Route(url) as route:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "densevit"})
            with route.opener().open(request, timeout=min(URL_TIMEOUT, URL_SECONDS)) as answer:
                kind = answer.headers.get("Content-Type", "")
                if kind.startswith("text/"):
                    raise DataError(
                        f"{url}: the server sends {kind}, not an image. Expected the address of an image file."
                    )
                content = b"".join(_parts(answer, url))
                if route.is_over:  # without a Content-Length, a closed connection looks like the end of the content
                    raise TimeoutError
                return content
        except urllib.error.HTTPError as error:
            raise DataError(f"{url}: the server answers {error.code} {error.reason}. Check the address.") from None
        except DataError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            reason = f"no answer within {URL_TIMEOUT:g} s" if late else str(getattr(error, "reason", None) or error)
            reason = f"it is not complete after {URL_SECONDS:g} s" if route.is_over else reason
            raise DataError(
                f"{url} cannot be downloaded: {reason}. Check the address and the network, or give a file's path."
            ) from None


def check_scheme(url: str) -> None:
    """Raises DataError for another URL than one of http or https."""
    if not url.lower().startswith(SCHEMES):
        raise DataError(f"{url}: only URLs of http and https are read. Fix: download the image, and give its path.")


def _parts(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    """Yields the content as it arrives. Raises DataError as soon as it is too large."""
    total = answer.length or 0  # the Content-Length
    if total <= URL_BYTES:
        total = 0
        while part := answer.read1(2**16):
            total += len(part)
            if total > URL_BYTES:
                break
            yield part
    if total > URL_BYTES:
        raise DataError(
            f"{url}: the server sends more than {URL_BYTES:,} bytes, the limit for a download. Fix: download the "
            "image, and give its path."
        )
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


class _Route:
    """The connections of one download and its redirects. A context manager that closes the last one after
    URL_SECONDS."""

    def __init__(self, url: str) -> None:
        self.url, self.is_over = url, False
        self._began_public: bool | None = None
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(URL_SECONDS, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Route":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def opener(self) -> urllib.request.OpenerDirector:
        """Returns an opener for http and https only; file, ftp and data URLs have no handler."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self.url),
            _Http(self),
            _Https(self),
        ):
            opener.add_handler(handler)
        return opener

    def connected(self, connection: socket.socket) -> None:
        """Checks the address of a new connection before a request is sent. With a proxy, it is the proxy's address."""
        self._socket = connection
        if self.is_over:
            raise TimeoutError
        address = connection.getpeername()[0]
        public = is_public(address)
        if self._began_public is None:
            self._began_public = public
        if self._began_public and not public:
            connection.close()
            raise DataError(
                f"{self.url}: the server redirects to {address}, an address of this machine or its network, "
                "which is not allowed. Fix: download the image, and give its path."
            )

    def _end(self) -> None:
        self.is_over = True
        with contextlib.suppress(OSError, AttributeError):  # no connection yet, or closed
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


def is_public(address: str) -> bool:
    """Whether an IP address is public: not private, loopback, link-local, shared or reserved."""
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_global


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, url: str) -> None:
        self.url = url

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(SCHEMES):
            raise DataError(f"{self.url}: the server redirects to {newurl}; only http and https are allowed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, route: _Route) -> None:
        super().__init__()
        self._route = route

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_connection, http.client.HTTPConnection, self._route), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, route: _Route) -> None:
        super().__init__()
        self._route = route

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_connection, http.client.HTTPSConnection, self._route), req)


def _connection(
    kind: type[http.client.HTTPConnection], route: _Route, host: str, **options: Any
) -> http.client.HTTPConnection:
    """Creates a connection whose address `route` checks as soon as it is connected."""
    connection = kind(host, **options)
    connect = connection.connect

    def connect_and_check() -> None:
        connect()
        route.connected(connection.sock)

    connection.connect = connect_and_check  # type: ignore[method-assign]
    return connection
