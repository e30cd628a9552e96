"""Options that commands of several files share."""

from pathlib import Path

import click

PICTURES = (".png", ".svg")
"""How the name of a picture may end."""

window_days_option = click.option(
    "--window-days", type=click.IntRange(min=1), help="Days of baskets to train on, such as 90 (default: settings)."
)


encoder_steps_option = click.option(
    "--encoder-steps", type=click.IntRange(min=0), help="Steps that tune the text encoder, such as 300; 0 skips it."
)


tower_steps_option = click.option(
    "--tower-steps", type=click.IntRange(min=1), help="Steps at most that tune the towers, such as 1500."
)


from_scratch_option = click.option(
    "--from-scratch",
    is_flag=True,
    help="Train from the pre-trained encoder on the whole window, not from the champion on what is new.",
)


until_option = click.option("--until", metavar="DAY", help="Take baskets before this day (UTC), such as 2026-01-31.")


def picture_file(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Return the file of `--plot`, refused before the work begins where a picture cannot be written to it.

    Raises:
        click.BadParameter: the name does not end in .png or .svg.
    """
    if file is not None and file.suffix not in PICTURES:
        raise click.BadParameter(f"{str(file)!r} names no picture: end it in {' or '.join(PICTURES)}.")
    return file


json_file_option = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="File for the records."
)


def names_of(listed: str | None) -> tuple[str, ...] | None:
    """Return the names of a list with commas; None for no list.

    Raises:
        click.BadParameter: the list names nothing.
    """
    if listed is None:
        return None
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    if not names:
        raise click.BadParameter(f"{listed!r} names no tower: write `2-layer int8,static`, or leave the option out.")
    return names
