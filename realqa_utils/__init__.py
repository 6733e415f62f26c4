"""A thin package behind the notebooks that reproduce RealQA (arXiv:2503.06141).

The notebooks are what people open; this package holds what they share. Data flows one way:
`datasets -> conversations -> training -> scoring -> statistics -> paper -> results`.
"""

__version__ = "0.1.0"
