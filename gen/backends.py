"""Back ends beside the golden model and the simulator: hardware, which packages outside ``gen`` know how to reach.

A package names its back ends as entry points of the group ``tilewright.backends``. Each is a function

    open(*, port, baud, progress, waiting) -> context manager of a transport as gen.driver.Generator takes it

port : str or None, baud : int or None    as the user gave them
progress : function                       told (bytes done, bytes in all) during a load
waiting : function                        told several times a second, during a run, how many seconds it has lasted
"""

from importlib.metadata import entry_points

__all__ = ["hardware_backends", "open_backend"]

GROUP = "tilewright.backends"


def hardware_backends():
    """Names, in order."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def open_backend(name, *, port=None, baud=None, progress=lambda done, total: None, waiting=lambda seconds: None):
    """The back end's transport, not yet entered."""
    (entry,) = [entry for entry in entry_points(group=GROUP) if entry.name == name][:1]
    return entry.load()(port=port, baud=baud, progress=progress, waiting=waiting)
