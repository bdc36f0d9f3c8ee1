"""How often Python looks for cycles in a process that answers calls, or works with rows."""

import gc

YOUNG_OBJECTS = 50_000
"""More than a chunk of result lines is made of, so that few are looked at before they are gone."""


def spare_what_stays() -> None:
    """To be called once a process is set up: what there is by then is never looked at again.

    Calls and rows make few cycles and go as soon as nobody refers to them, but the collector is
    called for every 700 objects that are there, and each tenth time, and each hundredth, it looks
    at older ones as well: two fifths of the time that a worker's Python took for a result line, and
    one fifth of what a call took.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
