"""What this process holds, and what the server has yet to be told about it."""
