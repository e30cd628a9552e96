"""What is known of the users, and the events that change it."""
