"""The only place that builds Dask graphs: blocks -> summed moments -> fit -> maps."""
