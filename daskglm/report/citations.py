"""What reports cite, as BibTeX."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Citation:
    """A work: how it is named in a sentence, and its BibTeX."""

    named: str
    kind: str
    fields: Mapping[str, str]

    def bibtex(self, key: str) -> str:
        """The entry.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        str
        """
        lines = [f"  {name} = {{{value}}}," for name, value in self.fields.items()]
        return "\n".join([f"@{self.kind}{{{key},", *lines, "}"])


def _article(named: str, author: str, title: str, journal: str, volume: str, pages: str, doi: str) -> Citation:
    """A paper; `named` ends in its year."""
    year = named[-4:]
    fields = {"author": author, "title": title, "journal": journal, "year": year, "volume": volume, "pages": pages}
    return Citation(named, "article", {**fields, "doi": doi})


def _software(named: str, author: str, title: str, **more: str) -> Citation:
    """A program."""
    return Citation(named, "software", {"author": author, "title": title, **more})


CITATIONS = {
    "daskglm": _software(
        "daskglm", "{daskglm contributors}",
        "{daskglm}: mass-univariate general linear models for neuroimaging cohorts",
    ),
    "friston1994": _article(
        "Friston et al., 1994",
        "Friston, K. J. and Holmes, A. P. and Worsley, K. J. and Poline, J.-P. and Frith, C. D. and "
        "Frackowiak, R. S. J.",
        "Statistical parametric maps in functional imaging: a general linear approach",
        "Human Brain Mapping", "2", "189--210", "10.1002/hbm.460020402",
    ),
    "worsley1995": _article(
        "Worsley & Friston, 1995", "Worsley, K. J. and Friston, K. J.",
        "Analysis of {fMRI} time-series revisited---again", "NeuroImage", "2", "173--181", "10.1006/nimg.1995.1023",
    ),
    "freedman1983": _article(
        "Freedman & Lane, 1983", "Freedman, David and Lane, David",
        "A nonstochastic interpretation of reported significance levels",
        "Journal of Business \\& Economic Statistics", "1", "292--298", "10.1080/07350015.1983.10509354",
    ),
    "winkler2014": _article(
        "Winkler et al., 2014",
        "Winkler, Anderson M. and Ridgway, Gerard R. and Webster, Matthew A. and Smith, Stephen M. and "
        "Nichols, Thomas E.",
        "Permutation inference for the general linear model", "NeuroImage", "92", "381--397",
        "10.1016/j.neuroimage.2014.01.060",
    ),
    "winkler2016": _article(
        "Winkler et al., 2016",
        "Winkler, Anderson M. and Ridgway, Gerard R. and Douaud, Gwena{\\\"e}lle and Nichols, Thomas E. and "
        "Smith, Stephen M.",
        "Faster permutation inference in brain imaging", "NeuroImage", "141", "502--516",
        "10.1016/j.neuroimage.2016.05.068",
    ),
    "smith2009": _article(
        "Smith & Nichols, 2009", "Smith, Stephen M. and Nichols, Thomas E.",
        "Threshold-free cluster enhancement: addressing problems of smoothing, threshold dependence and "
        "localisation in cluster inference",
        "NeuroImage", "44", "83--98", "10.1016/j.neuroimage.2008.03.061",
    ),
    "benjamini1995": _article(
        "Benjamini & Hochberg, 1995", "Benjamini, Yoav and Hochberg, Yosef",
        "Controlling the false discovery rate: a practical and powerful approach to multiple testing",
        "Journal of the Royal Statistical Society: Series B (Methodological)", "57", "289--300",
        "10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "nilearn": _software("nilearn", "{Nilearn contributors}", "{nilearn}", doi="10.5281/zenodo.8397156"),
    "dask": Citation(
        "Dask (Rocklin, 2015)", "inproceedings",
        {
            "author": "Rocklin, Matthew",
            "title": "{Dask}: parallel computation with blocked algorithms and task scheduling",
            "booktitle": "Proceedings of the 14th Python in Science Conference", "year": "2015", "pages": "126--132",
            "doi": "10.25080/Majora-7b98e3ed-013",
        },
    ),
    "xarray": _article(
        "Hoyer & Hamman, 2017", "Hoyer, Stephan and Hamman, Joe", "xarray: {N-D} labeled arrays and datasets in Python",
        "Journal of Open Research Software", "5", "10", "10.5334/jors.148",
    ),
    "zarr": _software("Zarr", "{Zarr developers}", "{zarr-python}", doi="10.5281/zenodo.3773449"),
}  # fmt: skip
"""Works that reports cite, by BibTeX key."""


def bibliography(keys: Iterable[str], versions: Mapping[str, str]) -> str:
    """BibTeX of some works.

    Parameters
    ----------
    keys : iterable of str
        Keys of :data:`CITATIONS`.
    versions : mapping of str to str
        Versions of software, for entries that are a program's.

    Returns
    -------
    str
    """
    entries = []
    for key in dict.fromkeys(keys):
        cited = CITATIONS[key]
        fields = {**cited.fields, "version": versions[key]} if cited.kind == "software" and key in versions else None
        entries.append((cited if fields is None else Citation(cited.named, cited.kind, fields)).bibtex(key))
    return "\n\n".join(entries)
