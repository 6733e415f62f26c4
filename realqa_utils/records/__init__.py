"""What is kept of a result: files, where it comes from, what decides it."""
