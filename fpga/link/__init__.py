"""The link between a host and a board: UART, frames, the bridge to registers and memory, and the host's end."""
