"""An interactive viewer of a map: nilearn's, as a page that asks no network for anything."""

import html
import json
import re
import secrets
import warnings
from typing import Any

import nibabel as nib
import numpy as np

from daskglm.errors import ImageError
from daskglm.plotting.canvas import nilearn_plotting

# A finer sprite of the brain is larger than browsers draw, and a page of tens of megabytes.
_FINEST = 2.0
_ICON = re.compile(r'<link rel="icon"[^>]*>')
# The page may load nothing, and is white in dark notebooks too, as its black letters need.
_HEAD = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'\">"
    "<style>html { background: white; color-scheme: light; }</style>"
)


def view(image: Any, threshold: float = 1e-6, bg_img: Any = "MNI152", title: str | None = None) -> Any:
    """Make an interactive viewer of a map, by nilearn's ``view_img``: three slices that follow the mouse.

    Parameters
    ----------
    image : Nifti1Image
        3-D map; what is not finite is not drawn.
    threshold : float
        Values below it, of either sign, are not drawn.
    bg_img : Nifti1Image, path, "MNI152" or None
        Background; None: none, for images that are not in MNI space.
    title : str, optional
        Any text.

    Returns
    -------
    nilearn.plotting.html_stat_map.StatMapView
        ``html`` is a whole page, with every script in it, that may load nothing; shown by a notebook as it is;
        ``save_as_html(path)``, ``open_in_browser()``. Where voxels are smaller than 2 mm the view has 2 mm.

    Raises
    ------
    ImageError
        Where the image is not 3-D.
    MissingDependencyError
        Where nilearn is not installed.

    Notes
    -----
    nilearn 0.14's page loads an icon from another host, and takes a title for HTML: neither does here.
    """
    view_img = nilearn_plotting().view_img
    from nilearn.image import load_img

    shown, behind = drawable(image), bg_img
    if bg_img is None or bg_img is False:
        shown, behind = _coarse(shown), False
    elif not (isinstance(bg_img, str) and bg_img == "MNI152"):
        behind = _coarse(load_img(bg_img))
    # The title is put in afterwards, once as HTML and once as JavaScript.
    mark = f"title-{secrets.token_hex(8)}"
    with warnings.catch_warnings():
        # nilearn 0.14 takes the median of a masked background.
        warnings.filterwarnings("ignore", message=".*'partition' will ignore the 'mask'")
        # A threshold that hides nothing is what the default asks for.
        warnings.filterwarnings("ignore", message="Threshold given was .* no values below")
        viewer = view_img(shown, bg_img=behind, threshold=threshold, title=mark if title else None)
    page = _ICON.sub("", viewer.html).replace("<head>", f"<head>{_HEAD}", 1)
    # For who does not see them.
    page = page.replace('class="slider"', 'class="slider" aria-label="opacity of the map"')
    page = page.replace("<canvas ", f'<canvas role="img" aria-label="slices of {mark if title else "a map"}" ', 1)
    if title:
        in_script = json.dumps(title).replace("<", r"\u003c")
        page = page.replace(f'"{mark}"', in_script).replace(mark, html.escape(title))
    viewer.html = page
    return viewer


def drawable(image: Any) -> Any:
    """A map as nilearn draws it: 3-D, 0 where it is not finite.

    Parameters
    ----------
    image : Nifti1Image
        Map.

    Returns
    -------
    Nifti1Image
        float32.

    Raises
    ------
    ImageError
        Where it is not 3-D.
    """
    if len(image.shape) != 3:
        raise ImageError(f"a picture is of one 3-D map, but this one has shape {image.shape}; name one volume of it")
    values = np.nan_to_num(np.asanyarray(image.dataobj), nan=0.0, posinf=0.0, neginf=0.0)
    return nib.Nifti1Image(values.astype(np.float32), image.affine)


def _coarse(image: Any) -> Any:
    """An image with voxels of 2 mm at least."""
    sizes = np.linalg.norm(image.affine[:3, :3], axis=0)
    if sizes.min() >= 0.99 * _FINEST:
        return image
    from nilearn.image import resample_img

    return resample_img(image, target_affine=np.eye(3) * _FINEST, copy_header=True, force_resample=True)
