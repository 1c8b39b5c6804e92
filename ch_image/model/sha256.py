"""sha256 of small things: keys, records, references.

The interpreter's own implementation, for hashlib loads OpenSSL, which costs a no-op build more
than all that it has to hash. Files are hashed by hashlib, whose speed is the processor's.
"""

from __future__ import annotations

from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha256 import sha256  # until Python 3.11
    except ImportError:
        try:
            from _sha2 import sha256
        except ImportError:
            from hashlib import sha256

__all__ = ["sha256"]
