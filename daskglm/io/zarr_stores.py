"""What zarr opens paths and URLs by."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import zarr

from daskglm.io import files, objects

T = TypeVar("T")


def store_at(path: str, read_only: bool) -> Any:
    """What zarr opens a path or URL by.

    Parameters
    ----------
    path : str
        Folder or URL.
    read_only : bool
        Whether nothing will be written.

    Returns
    -------
    str, or zarr.abc.store.Store for a URL
        Holds credentials: never put it into a graph, a log or a message.
    """
    if not files.is_url(path):
        return path
    store = objects.object_store(path)
    if store is None:
        return zarr.storage.FsspecStore.from_url(
            path, storage_options=objects.fsspec_options(path), read_only=read_only
        )
    return _ObjectStore(store, read_only=read_only)


class _ObjectStore(zarr.storage.ObjectStore):  # type: ignore[misc]
    """Zarr's store on obstore, which asks again where the connection was lost in the middle of an answer.

    Obstore itself does so only for the values of objects.
    """

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        return await _again(lambda: super(_ObjectStore, self).get(key, *args, **kwargs))

    async def set(self, key: str, value: Any) -> None:
        await _again(lambda: super(_ObjectStore, self).set(key, value))

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        await _again(lambda: super(_ObjectStore, self).set_if_not_exists(key, value))

    async def exists(self, key: str) -> bool:
        return await _again(lambda: super(_ObjectStore, self).exists(key))

    async def delete(self, key: str) -> None:
        await _again(lambda: super(_ObjectStore, self).delete(key))

    async def delete_dir(self, prefix: str) -> None:
        await _again(lambda: super(_ObjectStore, self).delete_dir(prefix))

    def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        return _listed(lambda: super(_ObjectStore, self).list_prefix(prefix))

    def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        return _listed(lambda: super(_ObjectStore, self).list_dir(prefix))


async def _again(ask: Callable[[], Awaitable[T]]) -> T:
    """What a question gives, asked again after a lost connection."""
    tries = objects.Tries()
    for wait in (*objects.WAITS, None):
        try:
            return await ask()
        except Exception as error:
            tries.add(error)
            if wait is None or not objects.connection_lost(error):
                raise
        await asyncio.sleep(wait)
    raise AssertionError


async def _listed(ask: Callable[[], AsyncIterator[str]]) -> AsyncGenerator[str, None]:
    """A list, whole."""

    async def collected() -> list[str]:
        return [name async for name in ask()]

    for name in await _again(collected):
        yield name
