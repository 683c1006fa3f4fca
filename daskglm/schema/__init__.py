"""Names, spaces and the layout of the datasets: what every boundary checks."""
