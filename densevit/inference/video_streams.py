"""Detects streams and cameras, which `predict` does not support."""

from densevit.errors import DataError
from densevit.paths import user_path

_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms", "mmsh", "hls", "v4l2")
_CAMERAS = ("webcam", "camera", "cam", "screen")


def check_no_stream(source: str) -> None:
    """Raises DataError for the address of a stream or a camera: `rtsp://...`, `0`, `webcam`, `/dev/video0`."""
    scheme, separator, _ = source.lower().partition("://")
    if separator:
        is_stream = scheme in _SCHEMES
    else:
        path = user_path(source)
        is_camera = source.strip().isdecimal() or source.strip().lower() in _CAMERAS
        is_stream = (is_camera and not path.exists()) or source.startswith("/dev/video")
    if is_stream:
        raise DataError(
            f"{source}: streams are not supported. Expected files. Fix: save frames, for example with "
            f"`ffmpeg -i {source if separator else '/dev/video0'} -vf fps=1 frames/%06d.jpg`, and give that folder; or "
            "read frames in Python, and pass each to Predictor.predict as an array."
        )
