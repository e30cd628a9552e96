"""The work behind the commands of `headrace` that are no steps."""
