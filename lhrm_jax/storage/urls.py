"""Files in buckets by URL (`gs://`, `s3://`, whatever fsspec knows); errors say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
from fsspec import AbstractFileSystem

from lhrm_jax.text import printable


class BucketError(ValueError):
  """A bucket could not be read or written; says which, why and what to do."""


class OvertakenError(BucketError):
  """Another run has written to the bucket since this one last did."""


def is_url(path: str) -> bool:
  """Whether a path is a URL and not a local file."""
  return "://" in path


def open_bucket(url: str) -> tuple[AbstractFileSystem, str]:
  """The file system of a URL, and the URL's path in it.

  Raises:
    BucketError: there is no such protocol, or its package is not installed.
  """
  with explained(url, "opened"):
    files, path = fsspec.core.url_to_fs(url)
    return files, path.rstrip("/")


@contextmanager
def explained(url: str, what: str, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
  """Context in which any error becomes a `BucketError`: every protocol has errors of its own.

  Args:
    url: the URL that is accessed.
    what: participle for the message: "read", "written".
    passes: errors that are raised as they are.
  """
  as_they_are = (BucketError, *passes)
  try:
    yield
  except as_they_are:
    raise
  except ImportError as error:
    raise BucketError(
      f"{url} cannot be {what}: {error}. pip install 'lhrm_jax[buckets]' installs the packages for "
      "gs:// and s3://."
    ) from error
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = printable(reason, 300).rstrip(".")
    raise BucketError(
      f"{url} cannot be {what}: {reason}. Check the name, this machine's credentials and its "
      "network."
    ) from error
