"""How long something is, as people say it."""

_SECOND = 1_000_000


def span(us: int) -> str:
    """A duration, as people say it, in the two largest units."""
    seconds = max(0, us // _SECOND)
    parts = [
        (seconds // 86_400, "d"),
        (seconds % 86_400 // 3600, "h"),
        (seconds % 3600 // 60, "min"),
        (seconds % 60, "s"),
    ]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count or first == len(parts) - 1)
