"""PyTorch's threads on a machine that has other work too.

The threads of GNU OpenMP, which PyTorch's CPU build uses, wait for one another in a busy loop: each
loop, a billion turns long, keeps a core from the thread that is waited for. Where others need the
cores, nothing gets on. A loop of 10,000 turns, after which a thread sleeps, costs nothing that
could be measured on a quiet machine: see docs/performance.md.
"""

from collections.abc import MutableMapping

SPINS = "10000"


def wait_politely(environment: MutableMapping[str, str]) -> None:
    """Shorten the busy loop of processes with this environment, unless the user has a say in it.

    Has to come before torch is imported. Any variable of OpenMP that is set (``OMP_*``, ``GOMP_*``,
    ``KMP_*``) leaves all as it is.
    """
    if not any(name.startswith(("OMP_", "GOMP_", "KMP_")) for name in environment):
        environment["GOMP_SPINCOUNT"] = SPINS
