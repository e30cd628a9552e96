"""What the service tells of itself: metrics, logs, traces and how long each stage took."""
