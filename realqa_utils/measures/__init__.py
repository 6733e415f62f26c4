"""How answers are judged: correlations, intervals by resampling, the composite score."""
