"""What callers may send and what they get back: calls, bodies, answers."""
