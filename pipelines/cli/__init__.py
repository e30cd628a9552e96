"""`headrace`: one command a step, plus the commands a person needs.

Nothing heavy is imported here: `headrace --help` must answer at once.
"""

import os
import signal
import sys

import click

from pipelines.cli import data, keys, load_benches, quality_benches, running, steps, versions  # noqa: F401 - they add their commands
from pipelines.cli.group import STEP_ORDER, cli
from pipelines.errors import HeadraceError

__all__ = ["STEP_ORDER", "cli", "main"]


def main() -> None:
    """Run the command line: an error of ours or of a file is one line and exit code 1, a bug shows its traceback."""
    # As with Ctrl-C, what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HeadraceError as error:
        click.echo(f"Error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the reader is gone; nothing may be flushed to it
        sys.exit(141)
    except OSError as error:
        if error.filename is None:
            raise
        home = os.environ.get("HEADRACE_HOME") or ".headrace"
        click.echo(
            f"Error: {error.filename} cannot be used ({error.strerror}): HEADRACE_HOME ({home}) must be a folder that "
            "this user may write to, on a disk with room. Mend that or name another folder, then run this again.",
            err=True,
        )
        sys.exit(1)
