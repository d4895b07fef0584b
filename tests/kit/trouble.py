"""Ways for this process to be in trouble: without privileges, without descriptors."""

import contextlib
import errno
import os
import resource
from collections.abc import Iterator

from everycore.system import descriptors


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Within the block this process has no privileges, except to signal its children.

    No other process runs as this user: the kernel counts some things by user, descriptors in flight above
    all.
    """
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(10_000 + os.getpid() % 50_000)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def descriptor_limit(number: int) -> Iterator[None]:
    """Within the block this process has at most `number` descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_descriptors(spare: int = 0) -> Iterator[None]:
    """Within the block this process can open `spare` descriptors and no more."""
    taken: list[int] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(descriptor_limit(len(os.listdir("/proc/self/fd")) + 64))
        stack.callback(descriptors.close_all, taken)
        while True:
            try:
                taken.append(os.dup(2))
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                break
        for _ in range(spare):
            os.close(taken.pop())
        yield
