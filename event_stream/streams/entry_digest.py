"""The size of an entry, and the digest that recognises it. Python and the server compute the same ones.

Python computes the digest only of entries that are transferred whole, which count whole:
docs/decisions/0047-never-transfer-an-entry-of-unknown-size.md
"""

from collections.abc import Sequence
from hashlib import sha1

ENTRY_BYTES_MAX = 1024 * 1024
"""An entry of a larger size is never transferred whole."""
PART_BYTES = 32
"""What each name and value adds to the size, as it takes memory besides its own bytes."""
PARTS_HASHED_MAX = 64
PART_BYTES_HASHED_MAX = 65_536

# Of a large entry, the digest covers the first 64 names and values, and the first and last 32 KiB of each.
DIGEST_LUA = f"""
local function size_of(parts)
    local size = {PART_BYTES} * #parts
    for i = 1, #parts do size = size + #parts[i] end
    return size
end
local function digest(parts)
    local size = size_of(parts)
    local is_large = size > {ENTRY_BYTES_MAX}
    local hashed = {{#parts .. ':' .. size}}
    for i = 1, is_large and math.min(#parts, {PARTS_HASHED_MAX}) or #parts do
        local part = parts[i]
        hashed[#hashed + 1] = ':' .. #part .. ':'
        if is_large and #part > {PART_BYTES_HASHED_MAX} then
            part = string.sub(part, 1, {PART_BYTES_HASHED_MAX // 2}) .. string.sub(part, -{PART_BYTES_HASHED_MAX // 2})
        end
        hashed[#hashed + 1] = part
    end
    return redis.sha1hex(table.concat(hashed))
end
"""


def digest(parts: Sequence[bytes]) -> bytes:
    """Return the digest of the names and values of an entry that is not large."""
    hashed = sha1(b"%d:%d" % (len(parts), size_of(parts)), usedforsecurity=False)
    for part in parts:
        hashed.update(b":%d:" % len(part))
        hashed.update(part)
    return hashed.digest()


def size_of(parts: Sequence[bytes]) -> int:
    """Return the size of an entry with these names and values."""
    return PART_BYTES * len(parts) + sum(map(len, parts))
