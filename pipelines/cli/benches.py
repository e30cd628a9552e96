"""The group of all measurements."""

from pipelines.cli.group import cli


@cli.group()
def bench() -> None:
    """Measure; results as a table and as JSON."""
