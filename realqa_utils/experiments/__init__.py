"""The experiments of the notebooks, and what several of them share."""
