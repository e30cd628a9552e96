"""Where tables come from: one file a source."""
