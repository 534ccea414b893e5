"""The back end ``uart`` of ``tilewright complete``: a board at a serial port."""

from tilewright.gen.errors import UserError

from .protocol import BAUD

__all__ = ["open_uart"]


def open_uart(*, port, baud, progress, waiting):
    """A SerialTransport, not yet entered; UserError where there is no port or no pyserial."""
    if port is None:
        raise UserError("--backend uart: at which port? add --port, such as --port /dev/ttyUSB0")
    if baud is not None and baud <= 0:
        raise UserError(f"--baud {baud}: must be above 0, such as {BAUD}")
    try:
        from .host import SerialTransport
    except ModuleNotFoundError as error:
        if error.name != "serial":
            raise
        raise UserError("--backend uart: needs pyserial; pip install 'tilewright[board]'") from None
    return SerialTransport(port, baud=BAUD if baud is None else baud, progress=progress, waiting=waiting)
