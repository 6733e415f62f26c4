"""Qwen2-VL and its input: built, loaded, adapted, and run without the work that no one reads."""
