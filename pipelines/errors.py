"""What can go wrong, by what to do about it.

    HeadraceError
    ├── ConfigError      a setting, a key or a path is wrong: change it, then run again
    ├── DataError        a table, a row or a request is wrong: mend the data, then run again
    ├── DivergenceError  a training made the model worse: lower its learning rate, then run again
    ├── BundleError      a bundle is incomplete or was changed after it was written: use another one
    └── StoreError       a store did not answer: the same call may work later, so Airflow retries it
        └── DamagedStateError  it holds something of a user that cannot be: others are served, a load mends it

Every message says what failed, what was found, what is allowed and what to do next.
"""


class HeadraceError(Exception):
    """Anything Headrace raises on purpose; the command line prints its message as one line."""


class ConfigError(HeadraceError):
    """A setting, key or path is wrong. Terminal: a retry changes nothing."""


class DataError(HeadraceError):
    """The data breaks the contract. Terminal: a retry changes nothing."""


class DivergenceError(HeadraceError):
    """A training was stopped because it made the model worse. Terminal: the same seed diverges again."""


class BundleError(HeadraceError):
    """A bundle is incomplete, corrupt or of another format. Terminal for that bundle."""


class StoreError(HeadraceError):
    """A store (Feast, MLflow, a lock, a disk) did not answer. Worth a retry."""


class DamagedStateError(StoreError):
    """What the online store holds of some users cannot be used; of others it can."""
