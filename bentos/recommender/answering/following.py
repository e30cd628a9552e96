"""Users are read again before they ask: those of whose events another worker was told, and whose features grow old.

Each worker keeps what it last read of a user, and a stamp that all workers of a machine share tells that it has
changed since. One that has time to spare looks at the stamps of its latest users, a few at a time, and reads those who
have changed; what hears of a change then prepares them. Features are used for a limited time even so: who was asked for
is read again before that has passed, or the next request would wait for it. A worker that is alone looks at these only.
"""

import logging
import threading
from collections.abc import Callable, Iterator

from bentos.recommender.users.user_states import UserStates

_LOOK_S, _REST_S = 0.05, 1.0
"""Between two looks; where there was nobody to look at."""
_AT_A_LOOK = 64
"""Users whose stamps are compared at a look, some 3 µs each."""
_MOST_READ = 8
"""Users who are read at a look, some 0.3 ms each: a request that comes meanwhile waits for one of them at most."""
_CLOSE_TIMEOUT_S = 2.0
_logger = logging.getLogger("headrace.serving")


class Following:
    """A thread that looks for what others were told, and for what grows old."""

    def __init__(self, users: UserStates, *, has_others: Callable[[], bool], most_users: int) -> None:
        """Take the users; `start` begins.

        Args:
            has_others: Says whether other workers answer beside this one.
            most_users: Users who are looked at, the latest; 0 looks at nobody.
        """
        self._users = users
        self._has_others = has_others
        self._most_users = most_users
        self._is_busy: Callable[[], bool] = lambda: False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def give_way(self, is_busy: Callable[[], bool]) -> None:
        """Look at nobody while that says that requests are there."""
        self._is_busy = is_busy

    def start(self) -> None:
        """Begin to look."""
        if self._most_users > 0:
            self._thread = threading.Thread(target=self._run, name="following", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def look(self, round_: Iterator[str]) -> bool:
        """Look at the next users of a round, and read those who have changed; return whether some of it is left."""
        read = 0
        for _ in range(_AT_A_LOOK):
            if self._is_busy() or read == _MOST_READ:
                return True
            if (user_id := next(round_, None)) is None:
                return False
            read += self._users.refresh(user_id)
        return True

    def _run(self) -> None:
        round_: Iterator[str] = iter(())
        pause_s = _LOOK_S
        while not self._closing.wait(pause_s):
            try:
                if not self.look(round_):
                    who = self._users.latest if self._has_others() else self._users.ageing
                    users = who(self._most_users)
                    round_, pause_s = iter(users), _LOOK_S if users else _REST_S
            except Exception:  # whoever asks is read then, as without this
                _logger.exception("Users were not read ahead")
                round_ = iter(())
