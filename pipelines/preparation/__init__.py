"""What is new is found, mended, merged and counted before it is validated: SQL over staged files."""
