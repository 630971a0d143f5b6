"""Measurements that go well, and badly, for tests of what runs them."""

import os
import time


def measured(name):
    yield {"begun": name}
    if name == "raises":
        raise ValueError("no such family")
    if name == "dies":
        os._exit(1)
    if name == "hangs":
        time.sleep(60)
    yield {"done": name}
