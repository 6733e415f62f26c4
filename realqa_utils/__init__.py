"""A thin package behind the notebooks that reproduce RealQA (arXiv:2503.06141).

The notebooks are what people open; this package holds what they share. Data flows one way:
`forms, images -> model -> datasets -> scoring, training, ncm -> experiments -> plotting, claims`.
"""

import logging

__version__ = "0.1.0"

# On CPUs with AVX512-BF16 its import warns of a missing kernel, which only 4-bit models would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
