"""Ways in which a file goes bad, shared by the tests of everything that is read back."""


def damaged(content: bytes, kind: str, zeros: int) -> bytes:
    """The content with a bit flip in its middle, truncated to half, with a zero tail of so many bytes, or empty."""
    match kind:
        case "bit flip":
            at = len(content) // 2
            return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        case "truncated":
            return content[: len(content) // 2]
        case "zero tail":
            return content[:-zeros] + bytes(zeros)
        case "empty":
            return b""
    raise ValueError(f"kind={kind!r}")
