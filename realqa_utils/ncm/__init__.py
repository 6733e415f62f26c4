"""NCM, the metric of the paper: where digits stand, metric, callback, anyone's curves."""

from realqa_utils.ncm.callback import NCMCallback
from realqa_utils.ncm.metric import NCM

__all__ = ["NCM", "NCMCallback"]
