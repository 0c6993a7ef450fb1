"""Notes that libraries print while they are imported, about optional parts of theirs that are not used here."""

import logging

# bitsandbytes without the package kernels; torchao's enums under torch 2.14; diffusers that knows another torchao.
LOGGERS = ("bitsandbytes", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


def silence_imports() -> None:
    """Only errors from these loggers from now on; imports nothing."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
