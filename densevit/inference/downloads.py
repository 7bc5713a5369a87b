"""Downloads images for `predict` with limits on size and time."""

import http.client
import time
import urllib.error
import urllib.request

from densevit.errors import DataError

URL_TIMEOUT = 20.0
"""Seconds without a response until a download fails."""
URL_SECONDS = 120.0
"""Largest total duration of a download in seconds."""
URL_BYTES = 256 * 2**20
"""Largest size of a downloaded image in bytes."""

SCHEMES = ("http://", "https://")


def download(url: str) -> bytes:
    """Downloads an http or https URL. Raises DataError beyond these limits."""
    check_scheme(url)
    end, content = time.monotonic() + URL_SECONDS, bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "densevit"})
        with urllib.request.urlopen(request, timeout=min(URL_TIMEOUT, URL_SECONDS)) as answer:
            content_type = answer.headers.get("Content-Type", "")
            if content_type.startswith("text/"):
                raise DataError(
                    f"{url}: the server sends {content_type}, not an image. Expected the address of an image file."
                )
            while part := answer.read1(2**16):
                content += part
                if max(len(content), answer.length or 0) > URL_BYTES:
                    raise DataError(
                        f"{url}: the server sends more than {URL_BYTES:,} bytes, the limit for a download. Fix: "
                        "download the image and name its file."
                    )
                if time.monotonic() > end:
                    raise TimeoutError(f"not complete after {URL_SECONDS:g} s")
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}. Check the address.") from None
    except DataError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", None) or error)
        reason = f"no answer within {URL_TIMEOUT:g} s" if "timed out" in reason else reason
        raise DataError(
            f"{url} cannot be downloaded: {reason}. Check the address and the network, or name a file."
        ) from None
    return bytes(content)


def check_scheme(url: str) -> None:
    """Raises DataError for a URL that is not http or https."""
    if not url.lower().startswith(SCHEMES):
        raise DataError(f"{url}: only http and https URLs are read. Fix: download the image and name its file.")
