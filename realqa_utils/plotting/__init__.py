"""Every figure. Functions take tidy tables and give a matplotlib Figure; none writes a file."""
