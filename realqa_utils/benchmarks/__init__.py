"""Speeds, each measured beside another way in one run."""
