"""Read by every Python that starts with this folder on PYTHONPATH: kernels, commands, workers."""

import no_network

no_network.block()
