import numpy as np, pandas as pd
def make_second_level_design_matrix(labels, confounds=None):
    return pd.DataFrame({"intercept":np.ones(len(labels))})
def check_design(design, n_samples, *, allow_rank_deficient=False):
    if len(design)!=n_samples: raise ValueError("rows")
def design_array(design): return design.to_numpy(float)
