"""The bundles that answer, the items that change beneath them, and how one takes the place of another."""
