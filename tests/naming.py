"""Names of test cases."""

import re


def without_addresses(case: object) -> str:
    """A case as text that is the same in each process: without the addresses of functions."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(case))
