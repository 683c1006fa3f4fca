"""URLs: what they may not carry, how they are shown, and what went wrong behind them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from daskglm.errors import ParameterError, StorageError

HTTP = ("http", "https")
_SECRETS = re.compile(r"(?<=://)[^/@\s]+@|(?<=[?&])(?=[^=&\s]*(?:sig|key|token|credential))([^=&\s]+)=[^&\s'\"]+", re.I)


def redacted(text: str) -> str:
    """Text without the users and passwords, signatures and tokens of the URLs in it.

    Parameters
    ----------
    text : str
        A URL, a message, a command.

    Returns
    -------
    str
    """
    return _SECRETS.sub(lambda found: f"{found[1]}=***" if found[1] else "***@", text)


def check_url(url: str) -> None:
    """Raise where a URL carries secrets, or asks what no object store answers.

    Parameters
    ----------
    url : str
        URL.

    Raises
    ------
    ParameterError
        Naming the URL without its secrets.
    """
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    # abfss://container@account.dfs.core.windows.net names a container so.
    if user and (":" in user or parts.scheme not in ("abfs", "abfss")):
        raise ParameterError(
            f"a URL carries no user or password, for it is shown and stored, but {redacted(url)} does; set the "
            "credentials in the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    if parts.query and parts.scheme in HTTP:
        raise ParameterError(
            f"an https:// URL has no query, which may be a signature, but {url.partition('?')[0]} has one; give a "
            "plain URL, or s3://, gs:// or az:// with credentials in the environment"
        )


@contextmanager
def storage_faults(url: str, doing: str) -> Iterator[None]:
    """Turn whatever goes wrong with an object store into an error that names the URL, the tries and the remedy.

    Parameters
    ----------
    url : str
        URL, or a local path: then nothing changes.
    doing : str
        "read", "written", ...

    Yields
    ------
    None

    Raises
    ------
    FileNotFoundError, FileExistsError
        Where the store answered that.
    StorageError
        Where it did not answer, or refused: access denied says that credentials lack or ran out, nothing of a file.
    """
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        foreign = type(error).__module__.startswith("obstore") or kind in ("ClientError", "NoCredentialsError")
        if "://" not in url or not (foreign or (isinstance(error, OSError) and type(error).__module__ == "builtins")):
            raise
        shown = redacted(url)
        if "NoSuchBucket" in str(error):
            raise StorageError(f"{shown} cannot be {doing}: {no_bucket(url)}") from None
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"there is no object at {shown}") from None
        if kind in ("AlreadyExistsError", "FileExistsError"):
            raise FileExistsError(f"there is an object at {shown} already") from None
        if kind in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError", "NoCredentialsError"):
            raise StorageError(
                f"{shown} cannot be {doing}: access is denied; check the credentials in the environment "
                "(AWS_ACCESS_KEY_ID, ..., or AWS_SKIP_SIGNATURE=true for a public bucket)"
            ) from None
        if kind == "PreconditionError":
            raise StorageError(f"{shown} changed while it was {doing}; run the same command again") from None
        # The errors of the libraries may hold requests with their signatures: only their first line is kept.
        raise StorageError(
            f"{shown} cannot be {doing}{_tries(error)}: {_reason(str(error))}; check that the "
            "store can be reached, then run the same command again"
        ) from None


def no_bucket(url: str) -> str:
    """What is wrong with a URL whose bucket does not exist, and what to do.

    Parameters
    ----------
    url : str
        URL.

    Returns
    -------
    str
    """
    return f"there is no bucket {urlsplit(redacted(url)).netloc}; correct the URL, or the endpoint in the environment"


def _tries(error: Exception) -> str:
    """How often and how long it was tried, as whoever tried wrote on the error."""
    count, seconds = getattr(error, "tried", (1, 0.0))
    return f" after {count} tries in {seconds:.0f} s" if count > 1 else ""


def _reason(message: str) -> str:
    """The part of a message that says what the matter is."""
    first = redacted(message.split("Debug source")[0].split("\n\n")[0]).replace("\n", " ")
    status = re.search(r"(?:status code: |\()(\d{3} [A-Z][A-Za-z ]+)", first)
    code = re.search(r"<Code>(\w+)</Code>", first)
    if status or code:
        return " ".join(found[1].strip() for found in (status, code) if found)
    return first.rpartition(" - ")[2].strip()[:300]
