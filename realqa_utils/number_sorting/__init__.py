"""Does a model know numbers? The probe of Table 3, who sorts, and what it says of scoring."""
