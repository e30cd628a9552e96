"""The gate between a challenger and the champion alias."""
