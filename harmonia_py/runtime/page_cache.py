"""What of an open file the kernel has in memory: preadv2(2) with `RWF_NOWAIT`."""

import os


def says_what_is_cached(fd: int, offset: int = 0) -> bool:
    """Whether the file system of `fd` tells what of it the page cache has; tmpfs, ZFS, NFS and FUSE do not.

    Args:
        fd: an open file; it may be empty.
        offset: of a byte that is looked for.
    """
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return True  # it has not
    except OSError:
        return False
    return True
