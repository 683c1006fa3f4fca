import numpy as np
def match_rows(design_ids, sample_ids, ids_are_known, table="the design"):
    if not all(isinstance(i,str) for i in design_ids): return None
    return np.array([list(design_ids).index(s) for s in sample_ids])
def select_participants(participants, sample_ids):
    t=participants.set_index("participant_id") if "participant_id" in participants else participants
    return t.loc[list(sample_ids)]
