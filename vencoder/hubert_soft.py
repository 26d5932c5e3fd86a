"""HubertSoft (bshall/hubert, MIT): a HuBERT base model whose last projection gives soft speech units."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from modules import checkpoint
from modules.errors import UserError
from vencoder.encoder import Precision
from vencoder.hubert import HubertEncoder, HubertModel, HubertSizes, rename_keys
from vencoder.layers import load_model


class HubertSoftEncoder(HubertEncoder):
    """Soft speech units: frames = samples // 320, because 40 zeros stand on both sides."""

    pad = 40

    @classmethod
    def _from_file(cls, path: Path, device: str = "cpu", precision: Precision = "auto") -> HubertSoftEncoder:  # type: ignore[override]
        """Load hubert-soft-0d54a1f4.pt or a .safetensors of it."""
        state = checkpoint.load(path)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError("the file is not HubertSoft's state dict", path, "use the official file")
        model = load_model(rename(state), path, HubertModel, HubertSizes(projection=256))
        return cls(model, device, precision)


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """HubertSoft's keys to ours."""
    return rename_keys(state, _NAMES)


_NAMES = (
    (r"^module\.", ""),
    (r"^feature_extractor\.conv(\d+)\.", r"conv.\1."),
    (r"^feature_extractor\.norm0\.", "front_end.norms.0."),
    (r"^feature_projection\.norm\.", "feature_norm."),
    (r"^feature_projection\.projection\.", "feature_projection."),
    (r"^positional_embedding\.conv\.", "positions."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn\.in_proj_", ".attention.qkv."),
    (r"\.self_attn\.out_proj\.", ".attention.out."),
    (r"\.linear1\.", ".feed_forward.up."),
    (r"\.linear2\.", ".feed_forward.down."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.norm2\.", ".feed_forward_norm."),
    (r"^proj\.", "projection."),
)
