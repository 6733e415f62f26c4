"""The notebooks as one graph: run, resumed, committed, and shown as pages."""
