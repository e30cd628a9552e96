"""Events are mended, merged and counted before they are validated. Pure SQL."""
