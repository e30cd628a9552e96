"""What a table must look like before it is trusted."""
