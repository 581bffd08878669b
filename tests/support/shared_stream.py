"""A text stream that one thread writes while another reads what there is.

pytest's `capsys` cannot: reading empties it, and drops what a thread writes at that moment.
"""


class SharedStream:
    """Stands in for `sys.stderr`."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def write(self, text: str) -> int:
        self._parts.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""

    @property
    def text(self) -> str:
        return "".join(self._parts)
