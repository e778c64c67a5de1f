"""Where objects lie that are no files of this machine: a store by its address."""

from __future__ import annotations

from gpu_extract.naming import Url
from gpu_extract.stores.base import Store


def open_store(url: Url) -> Store:
    """The store that an address lies in. Credentials and endpoint come from the environment.

    Raises:
        UsageError: if it needs a package that is not installed, or the environment does not say what it must.
    """
    if url.scheme == "file":
        from gpu_extract.stores.local import Folder

        return Folder()
    from gpu_extract.stores.bucket import Bucket

    return Bucket(url)
