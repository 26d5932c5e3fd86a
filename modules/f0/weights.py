"""Where the weights of rmvpe are; importing this takes no torch, so that they can be looked for first."""

from __future__ import annotations

from pathlib import Path

import pretrain
from modules.errors import UserError
from modules.f0 import needs_no_file


def find_weights(pretrain_dir: Path) -> Path:
    """The weights file.

    Raises:
        UserError: there is none; the message says where it comes from and which predictors need none.
    """
    try:
        return pretrain.require("rmvpe", pretrain_dir)
    except UserError as error:
        address = pretrain.weight_named("rmvpe").urls[0]
        others = ", ".join(needs_no_file())
        fix = f"{error.fix}; or put {address} there; or choose --f0_predictor {others}, which need no file"
        raise UserError(error.what, error.where, fix) from None
