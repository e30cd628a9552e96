"""From candidates to an ordered list: filtering, scoring, ordering."""
