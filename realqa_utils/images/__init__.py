"""Photographs before any model: found and read, which pixels are seen, which are dropped."""
