"""Two questions about ports: is somebody there already, and which one is free?"""

import socket

from pipelines.errors import ConfigError


def refuse_taken_port(port: int, option: str, host: str = "127.0.0.1") -> None:
    """Check that a port can be listened on.

    Args:
        option: What the user types to choose another one, such as `headrace serve --port`.

    Raises:
        ConfigError: another process listens there, or this user may not.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} on {host} cannot be used ({error.strerror or error}): stop what listens there "
                f"or choose another, for example `{option} {port + 1}`."
            ) from None


def free_port() -> int:
    """Return a port of this machine on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
