"""The arithmetic: plain NumPy arrays in, plain NumPy arrays out."""
