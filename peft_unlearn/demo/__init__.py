"""Invented people, and small models that know them.

The models are trained in processes of their own, which start without the command line's set-up of logs.
"""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
    logging.ERROR
)  # it offers kernels that `adapters.keep_weights_unpacked` rules out
