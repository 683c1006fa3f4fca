"""Design matrices, formulas and contrasts."""
