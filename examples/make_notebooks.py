"""Make ``notebooks/*.ipynb`` from the scripts ``plot_*.py``: ``python examples/make_notebooks.py``."""

import copy
import json
from pathlib import Path

from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

FOLDER = Path(__file__).parent


def notebook_of(script: Path) -> str:
    """Text of the notebook of a script: without outputs, and the same whatever the version of Python."""
    blocks = split_code_and_text_blocks(str(script))[1]
    notebook = jupyter_notebook(blocks, copy.deepcopy(DEFAULT_GALLERY_CONF), str(script.parent))
    del notebook["metadata"]["language_info"]["version"]
    return json.dumps(notebook, indent=1) + "\n"


if __name__ == "__main__":
    (FOLDER / "notebooks").mkdir(exist_ok=True)
    for path in sorted(FOLDER.glob("plot_*.py")):
        (FOLDER / "notebooks" / f"{path.stem}.ipynb").write_text(notebook_of(path), encoding="utf-8")
