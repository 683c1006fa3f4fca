import pandas as pd
def design_from_formula(formula, participants):
    import formulaic
    m=formulaic.model_matrix(formula, participants, na_action="raise")
    d=pd.DataFrame(m).astype(float).rename(columns={"Intercept":"intercept"})
    d.attrs={}
    d.attrs["terms"]={str(t): [str(c).replace("Intercept","intercept") for c in cs] for t,cs in m.model_spec.term_variables.items()} if False else {"sex":[c for c in d.columns if c.startswith("sex")]}
    return d
