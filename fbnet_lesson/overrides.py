"""What the configs share: overriding their fields, and what is said of an impossible value."""

from dataclasses import fields, replace


def override(config, /, **changes):
    """A copy of a frozen dataclass with some fields changed; ValueError names an unknown field."""
    known = [f.name for f in fields(config)]
    for name in changes:
        if name not in known:
            raise ValueError(f"unknown field {name!r}; allowed are {', '.join(known)}")
    return replace(config, **changes)


def impossible(name: str, value, allowed: str) -> ValueError:
    """The error that names a field, its value and what it could be."""
    return ValueError(f"{name}={value!r} is impossible; allowed: {allowed}")
