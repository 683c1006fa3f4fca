import numpy as np
def contrast_matrix(definition, columns, terms=None):
    if isinstance(definition, str):
        rows=[]
        for part in definition.split(","):
            part=part.strip()
            if part in columns: rows.append(np.eye(len(columns))[columns.index(part)])
            elif terms and part in terms: rows+= [np.eye(len(columns))[columns.index(c)] for c in terms[part]]
            else: raise ValueError(part)
        return np.array(rows)
    if isinstance(definition,(list,tuple)) and isinstance(definition[0],str):
        return np.vstack([contrast_matrix(d,columns,terms) for d in definition])
    return np.atleast_2d(np.asarray(definition,float))
