"""The commands of `realqa` that have options of their own."""
