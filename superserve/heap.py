"""Keeping the garbage collector from holding up answers."""

import gc


def settle() -> None:
    """Exempt all objects that there are from garbage collection, for good.

    A full collection visits every object: in a process that has loaded a web framework that takes
    some 80 ms, in which nothing is answered, and it comes every few seconds under load. Call it
    once, when everything is started; what is made later is collected as ever, and is little.
    """
    gc.collect()
    gc.freeze()
