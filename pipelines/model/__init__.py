"""The network: encoder, item tower, user tower (torch)."""
