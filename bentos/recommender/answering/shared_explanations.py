"""Explanations of answers that any process of the service on this machine gave: each remembers its own, and is asked.

The processes find each other by the sockets in a folder of the home that only its owner may enter.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from bentos.recommender.answering.explaining import Explainer
from bentos.recommender.bundles.serving import Serving
from bentos.recommender.contract.requests import RequestError
from bentos.recommender.current_request import remaining_s

_PATIENCE_S = 1.0
"""For one other process."""
_MOST_BYTES = 2**24
_PIECE_BYTES = 2**16
_WAITING = 16
_logger = logging.getLogger("headrace.serving")


class SharedExplanations:
    """Explains what this process answered, and has the others explain what they did."""

    def __init__(self, explainer: Explainer, live: Callable[[], Serving], folder: Path | None) -> None:
        """Take what this process remembers.

        Args:
            live: Gives what answers now.
            folder: Where the processes find each other; None means that this one is alone.
        """
        self._explainer = explainer
        self._live = live
        self._others = None if folder is None else NearbyProcesses(folder, self._answer)

    @property
    def has_others(self) -> bool:
        """Whether other processes answer beside this one."""
        return self._others is not None and self._others.are_there

    def start(self) -> None:
        """Begin to answer the others."""
        if self._others is not None:
            self._others.start()

    def close(self) -> None:
        """Answer the others no more."""
        if self._others is not None:
            self._others.close()

    def of_request(self, request_id: str, item_id: str | None) -> dict[str, Any]:
        """Explain an answer, or what became of one item in it.

        Raises:
            RequestError: 404, no process remembers the answer, or its bundle is gone; or the item is unknown.
        """
        if self._others is not None and not self._explainer.remembers(request_id):
            question = orjson.dumps({"request_id": request_id, "item_id": item_id})
            for raw in self._others.ask(question, remaining_s()):
                told = orjson.loads(raw)
                if "error" in told:
                    raise RequestError(told["status"], told["error"])
                return dict(told)
        return self._explainer.of_request(request_id, item_id, self._live())

    def _answer(self, question: bytes) -> bytes:
        """Return what this process has to say; nothing where it does not remember the answer."""
        asked = orjson.loads(question)
        if not self._explainer.remembers(asked["request_id"]):
            return b""
        try:
            return orjson.dumps(self._explainer.of_request(asked["request_id"], asked["item_id"], self._live()))
        except RequestError as error:
            return orjson.dumps({"status": error.status, "error": str(error)})


class NearbyProcesses:
    """Processes of one machine that answer each other's questions, over Unix sockets in a folder."""

    def __init__(self, folder: Path, answer: Callable[[bytes], bytes]) -> None:
        """Nothing is opened yet.

        Args:
            folder: Made if it is not there; its path may be of any length.
            answer: Returns what this process says to a question; nothing means that it does not know.
        """
        self._folder = folder
        self._answer = answer
        self._name = f"{socket.gethostname()}-{os.getpid()}.sock"
        self._listening: socket.socket | None = None

    def start(self) -> None:
        """Begin to answer on a thread; where no socket can be made, this process only asks."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self._folder / self._name).unlink(missing_ok=True)
            with _Folder(self._folder) as addresses:
                listening.bind(addresses.of(self._name))
            listening.listen(_WAITING)
        except OSError as error:
            _logger.warning("Other processes cannot ask this one for its explanations: %s", error)
            listening.close()
            return
        self._listening = listening
        threading.Thread(target=self._answer_on, args=(listening,), name="explanations", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        if self._listening is not None:
            (self._folder / self._name).unlink(missing_ok=True)
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # ends the thread's wait
            self._listening.close()
            self._listening = None

    @property
    def are_there(self) -> bool:
        """Whether there are any, or one was killed and nobody has asked since."""
        return any(path.name != self._name for path in self._folder.glob("*.sock"))

    def ask(self, question: bytes, within_s: float | None = None) -> Iterator[bytes]:
        """Yield what the others say; who is gone or does not know says nothing.

        Args:
            within_s: What is left of the request's time, seconds.
        """
        patience_s = _PATIENCE_S if within_s is None else min(_PATIENCE_S, max(within_s, 0.001))
        for path in sorted(self._folder.glob("*.sock")):
            if path.name != self._name and (answer := self._ask(path, question, patience_s)):
                yield answer

    def _ask(self, path: Path, question: bytes, patience_s: float) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as talk:
            talk.settimeout(patience_s)
            try:
                with _Folder(self._folder) as addresses:
                    talk.connect(addresses.of(path.name))
                talk.sendall(question)
                talk.shutdown(socket.SHUT_WR)
                return _all_of(talk)
            except ConnectionRefusedError:  # left by a process that was killed
                path.unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("The process of %s does not answer: %s", path.name, error)
        return b""

    def _answer_on(self, listening: socket.socket) -> None:
        while True:
            try:
                talk, _ = listening.accept()
            except OSError:
                return  # closed
            with talk:
                talk.settimeout(_PATIENCE_S)
                try:
                    talk.sendall(self._answer(_all_of(talk)))
                except OSError:
                    continue  # whoever asked has gone
                except Exception:  # whatever the question was, the next one is answered
                    _logger.exception("Another process gets no explanation")


class _Folder:
    """Addresses of sockets in a folder, however long its path: an address itself has some hundred characters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> "_Folder":
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def of(self, name: str) -> str:
        """Return the address of a socket, good until the block ends."""
        short = Path(f"/proc/self/fd/{self._descriptor}")
        return str((short if short.exists() else self._folder) / name)


def _all_of(talk: socket.socket) -> bytes:
    """Return all that the other side says.

    Raises:
        OSError: it says nothing for too long, or too much.
    """
    pieces, size = [], 0
    while piece := talk.recv(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise OSError("too much was said")
    return b"".join(pieces)
