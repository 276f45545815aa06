"""How fast, and with how much memory: ours against a peer, in the same run."""
