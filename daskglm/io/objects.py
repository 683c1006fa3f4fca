"""Objects behind URLs: obstore for S3, Google Cloud, Azure and HTTP, fsspec for everything else.

Credentials, regions and endpoints come from the environment of the process that opens a URL, under the names
that the providers gave them: ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``AWS_SKIP_SIGNATURE=true`` for buckets
open to all, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``; failing those, the role of the
machine. Profiles (``AWS_PROFILE``, ``~/.aws``) are read by s3fs. Nothing here that holds a secret is given out:
tasks carry URLs.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from daskglm.errors import MissingDependencyError, ParameterError, StorageError
from daskglm.io.object_reader import buffered, fsspec_blocks, http_blocks, range_blocks
from daskglm.io.urls import HTTP, check_url, redacted, storage_faults

_BY_OBSTORE = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https")
_MAX_RETRIES = 15
# Waits grow threefold, drawn at random, up to 3 s; a store that answers nothing is given up after 8 s.
_BACKOFF = {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=3), "base": 3}
_RETRIES = {"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=8), "backoff": _BACKOFF}
# Waits, in s, before what obstore does not ask again by itself is asked again.
WAITS = (0.05, 0.2, 0.8, 2.0)
T = TypeVar("T")
_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")


def object_store(url: str) -> Any:
    """The obstore store that serves a URL, with the URL's path as its root, or None where fsspec serves it.

    Parameters
    ----------
    url : str
        URL of a folder.

    Returns
    -------
    obstore store or None
        Holds credentials: never put it into a graph, a log or a message.

    Raises
    ------
    ParameterError
        From :func:`check_url`.
    """
    check_url(url)
    scheme = urlsplit(url).scheme
    if scheme not in _BY_OBSTORE or (scheme in ("s3", "s3a") and _by_profile()):
        return None
    # A change of the environment is a change of the store.
    state = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(_PREFIXES)))
    return _open_store(url.rstrip("/"), state)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL that obstore does not serve, and the path in it.

    Parameters
    ----------
    url : str
        URL.

    Returns
    -------
    tuple of fsspec file system and str

    Raises
    ------
    MissingDependencyError
        Where the package for this kind of URL is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url, **fsspec_options(url))
    except ImportError as error:
        raise MissingDependencyError(
            f"{redacted(url)} needs packages that are not installed ({error}); pip install 'daskglm[cloud]'"
        ) from error
    except ValueError as error:
        raise ParameterError(
            f"no object store has URLs as {redacted(url)}: {error}; use s3://, gs:// or az://"
        ) from error


def fsspec_options(url: str) -> dict[str, Any]:
    """Options of fsspec's file system of a URL; none holds a secret.

    Parameters
    ----------
    url : str
        URL.

    Returns
    -------
    dict
    """
    if not url.startswith(("s3://", "s3a://")):
        return {}
    return {"use_listings_cache": False, "anon": os.environ.get("AWS_SKIP_SIGNATURE", "").lower() == "true"}


def read_object(url: str) -> bytes:
    """All of an object.

    Parameters
    ----------
    url : str
        URL.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        As :func:`storage_faults`.
    """
    with storage_faults(url, "read"):
        store, key = _object(url)
        if store is None:
            system, path = filesystem(url)
            return system.cat_file(path)
        import obstore

        return _again(lambda: bytes(obstore.get(store, key).bytes()))


def open_object(url: str) -> BinaryIO:
    """An object to be read from its beginning to its end; memory holds one block, disks nothing.

    Parameters
    ----------
    url : str
        URL.

    Returns
    -------
    binary file
        Buffered; seeking costs a request at the next read.

    Raises
    ------
    OSError
        As :func:`storage_faults`, also while reading: StorageError where the object is replaced meanwhile.
    """
    with storage_faults(url, "read"):
        store, key = _object(url)
        if store is None:
            system, path = filesystem(url)
            size = int(system.info(path)["size"])
            return buffered(url, size, lambda start: fsspec_blocks(system, path, start, size))
        import obstore

        meta = _again(lambda: obstore.head(store, key))
        blocks = http_blocks if urlsplit(url).scheme in HTTP else range_blocks
        return buffered(url, meta["size"], lambda start: blocks(store, key, meta, start))


def object_state(url: str) -> tuple[int, int]:
    """Size of an object, and a number that changes when it does.

    Parameters
    ----------
    url : str
        URL.

    Returns
    -------
    size : int
        In bytes.
    version : int
        Digest of its ETag, or of the time of its last change where it has none.

    Raises
    ------
    OSError
        As :func:`storage_faults`.
    """
    with storage_faults(url, "read"):
        store, key = _object(url)
        if store is None:
            system, path = filesystem(url)
            info = system.info(path)
            if info["type"] == "directory":
                raise FileNotFoundError(path)
            names = ("ETag", "etag", "LastModified", "mtime", "updated", "created")
            version = next((info[name] for name in names if info.get(name) is not None), "")
        else:
            import obstore

            info = _again(lambda: obstore.head(store, key))
            version = info.get("e_tag") or info["last_modified"]
    digest = hashlib.sha256(str(version).encode()).digest()
    return int(info["size"]), int.from_bytes(digest[:8], "little") >> 1


def write_object(url: str, data: bytes, create: bool = False) -> None:
    """Write an object, whole or not at all.

    Parameters
    ----------
    url : str
        URL.
    data : bytes
        Contents.
    create : bool
        Only where there is none.

    Raises
    ------
    OSError
        As :func:`storage_faults`; FileExistsError for `create` where there is one.
    """
    if urlsplit(url).scheme in HTTP:
        check_url(url)
        raise StorageError(f"https:// is only read, so {url} is not written; write to s3://, gs:// or az://")
    with storage_faults(url, "written"):
        store, key = _object(url)
        if store is None:
            system, path = filesystem(url)
            system.pipe_file(path, data, mode="create" if create else "overwrite")
            return
        import obstore

        _again(lambda: obstore.put(store, key, data, mode="create" if create else "overwrite"))


def remove_object(url: str) -> None:
    """Remove one object; nothing where there is none.

    Parameters
    ----------
    url : str
        URL.

    Raises
    ------
    OSError
        As :func:`storage_faults`.
    """
    with storage_faults(url, "removed"):
        store, key = _object(url)
        if store is None:
            system, path = filesystem(url)
            with suppress(FileNotFoundError):
                system.rm_file(path)
            return
        import obstore

        with suppress(FileNotFoundError):
            _again(lambda: obstore.delete(store, key))


def list_objects(url: str, recursive: bool) -> list[str]:
    """Paths, relative to a URL, of the objects below it.

    Parameters
    ----------
    url : str
        URL of a folder.
    recursive : bool
        All objects below; else names of what is directly within, folders too.

    Returns
    -------
    list of str
        Sorted; empty where there is nothing.

    Raises
    ------
    OSError
        As :func:`storage_faults`.
    """
    with storage_faults(url, "listed"):
        if urlsplit(url).scheme in HTTP:
            raise StorageError(f"https:// has no lists of files, so {redacted(url)} is not searched; name each file")
        store, key = _object(url)
        if store is None:
            system, path = filesystem(url)
            try:
                found = system.find(path) if recursive else system.ls(path, detail=False)
            except FileNotFoundError:
                return []
            base = f"{path.strip('/')}/"
            return sorted(name.strip("/").removeprefix(base) for name in found if name.strip("/").startswith(base))
        import obstore

        start = f"{key}/" if key else ""
        if recursive:
            paths = [item["path"] for item in _again(lambda: obstore.list(store, prefix=key or None).collect())]
        else:
            result = _again(lambda: obstore.list_with_delimiter(store, prefix=key or None))
            paths = [*result["common_prefixes"], *(item["path"] for item in result["objects"])]
        return sorted(path.removeprefix(start) for path in paths if path.startswith(start))


def check_bucket(url: str) -> None:
    """Raise where a URL's bucket does not exist, which the absence of an object alone does not tell.

    Parameters
    ----------
    url : str
        URL of an object that is not there.

    Raises
    ------
    StorageError
        Naming the bucket.
    """
    parts = urlsplit(url)
    if parts.scheme in ("s3", "s3a", "gs"):
        list_objects(f"{parts.scheme}://{parts.netloc}/{parts.path.strip('/')}", recursive=False)


def connection_lost(error: Exception) -> bool:
    """Tell whether an error of obstore says that a connection was lost, not what a server answered.

    Parameters
    ----------
    error : Exception
        What was raised.

    Returns
    -------
    bool
    """
    return type(error).__name__ == "GenericError" and "HTTP error" in str(error) and "non-2xx" not in str(error)


def _again(ask: Callable[[], T]) -> T:
    """What a question gives, asked again after a lost connection."""
    tries = Tries()
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:
            tries.add(error)
            if wait is None or not connection_lost(error):
                raise
        time.sleep(wait)
    raise AssertionError


class Tries:
    """How often and how long something was asked of an object store, written on each of its errors.

    Attributes
    ----------
    began : float
        When, of the monotonic clock.
    count : int
        Tries so far.
    """

    def __init__(self) -> None:
        self.began, self.count = time.monotonic(), 0

    def add(self, error: Exception) -> None:
        """Count what an error says of obstore's own tries.

        Parameters
        ----------
        error : Exception
            The error of one more try, on which the count and the time are written.
        """
        found = re.search(r"after (\d+) retr", str(error))
        self.count += 1 + (int(found[1]) if found else 0)
        with suppress(AttributeError):
            error.tried = (self.count, time.monotonic() - self.began)  # type: ignore[attr-defined]


def _object(url: str) -> tuple[Any, str]:
    """The store of a URL's bucket, None where fsspec serves it, and the key in it."""
    parts = urlsplit(url, allow_fragments=False)
    # urlsplit would take what follows a question mark from a key.
    key = url.split("://", 1)[1].partition("/")[2].strip("/")
    store = object_store(f"{parts.scheme}://{parts.netloc}")
    if store is None or parts.scheme in HTTP:
        check_url(url)
        key = unquote(key)
    return store, key


@lru_cache(maxsize=64)
def _open_store(url: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """An obstore store, once per URL and environment, for the connections it keeps."""
    try:
        from obstore.store import HTTPStore, from_url
    except ImportError:
        if url.startswith(("http://", "https://")):
            raise MissingDependencyError(
                f"{redacted(url)} needs obstore, which is not installed; pip install 'daskglm[cloud]'"
            ) from None
        return None
    endpoint = dict(environment).get("AWS_ENDPOINT_URL_S3") or dict(environment).get("AWS_ENDPOINT_URL") or ""
    # A custom endpoint that says http:// means it.
    plain = url.startswith("http://") or endpoint.startswith("http://")
    options = {"connect_timeout": "5s", "timeout": "5min", "read_timeout": "30s"} | (
        {"allow_http": True} if plain else {}
    )
    if url.startswith(("http://", "https://")):
        return HTTPStore.from_url(url, client_options=options, retry_config=_RETRIES)
    return from_url(url, client_options=options, retry_config=_RETRIES)


def _by_profile() -> bool:
    """Tell whether credentials for S3 are in a profile, which botocore reads and obstore does not."""
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() == "true" or "AWS_ACCESS_KEY_ID" in os.environ:
        return False
    files = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    return "AWS_PROFILE" in os.environ or any(os.path.isfile(os.path.expanduser(path)) for path in files)
