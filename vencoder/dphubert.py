"""DPHuBERT (arXiv 2305.17651): a HuBERT pruned to different sizes in each layer, which its file states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import checkpoint
from modules.errors import UserError
from vencoder.encoder import Precision
from vencoder.hubert import HubertEncoder, HubertModel, HubertSizes, LayerSizes, hops_like_hubert, rename_keys
from vencoder.layers import MAX_LAYERS, load_model


class DphubertEncoder(HubertEncoder):
    """Units of a pruned HuBERT's last layer, always in evaluation mode."""

    @classmethod
    def _from_file(cls, path: Path, device: str = "cpu", precision: Precision = "auto") -> DphubertEncoder:  # type: ignore[override]
        """Load DPHuBERT-sp0.75.pth or a .safetensors of it."""
        content = checkpoint.load(path)
        if not isinstance(content, dict) or not {"config", "state_dict"} <= content.keys():
            raise UserError("the file is not a DPHuBERT checkpoint: it has no config", path, "use the official file")
        state = rename_keys(content["state_dict"], _NAMES)
        model = load_model(state, path, HubertModel, sizes_of(content["config"], path))
        return cls(model, device, precision, bool(content["config"].get("normalize_waveform", False)))


def sizes_of(config: Any, path: Path) -> HubertSizes:
    """The sizes that a DPHuBERT config states.

    Raises:
        UserError: a field is missing or of the wrong kind, or the model is a pruned WavLM.
    """
    if isinstance(config, dict) and "encoder_remaining_heads" in config:
        raise UserError("the file holds a pruned WavLM, not a pruned HuBERT", path, "use DPHuBERT-sp0.75.pth")
    try:
        convs = tuple((int(a), int(b), int(c)) for a, b, c in config["extractor_conv_layer_config"])
        layers = tuple(
            LayerSizes(int(heads) if attends else 0, int(config["encoder_head_dim"]), int(hidden) if feeds else 0)
            for attends, heads, feeds, hidden in zip(
                config["encoder_use_attention"],
                config["encoder_num_heads"],
                config["encoder_use_feed_forward"],
                config["encoder_ff_interm_features"],
                strict=True,
            )
        )
        if len(layers) > MAX_LAYERS:
            raise ValueError(f"{len(layers)} layers")
        sizes = HubertSizes(
            width=int(config["encoder_embed_dim"]),
            layers=layers,
            pre_norm=bool(config["encoder_layer_norm_first"]),
            norm_each_conv=config["extractor_mode"] == "layer_norm",
            conv_bias=bool(config["extractor_conv_bias"]),
            convs=convs,
            position_kernel=int(config["encoder_pos_conv_kernel"]),
            position_groups=int(config["encoder_pos_conv_groups"]),
            scaled=True,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the config in the file lacks or misstates {error}", path, "use the official file") from None
    if not hops_like_hubert(convs):
        raise UserError("the convolutions are not those of HuBERT", path, "use the official file")
    return sizes


_NAMES = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"conv.\1."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"front_end.norms.\1."),
    (r"^feature_extractor\.dummy_weight$", "front_end.scale"),
    (r"^encoder\.feature_projection\.layer_norm\.", "feature_norm."),
    (r"^encoder\.feature_projection\.projection\.", "feature_projection."),
    (r"^encoder\.transformer\.pos_conv_embed\.conv\.", "positions."),
    (r"^encoder\.transformer\.layer_norm\.", "norm."),
    (r"^encoder\.transformer\.layers\.", "blocks."),
    (r"(blocks\.\d+)\.layer_norm\.", r"\1.attention_norm."),
    (r"\.attention\.out_proj\.", ".attention.out."),
    (r"\.feed_forward\.intermediate_dense\.", ".feed_forward.up."),
    (r"\.feed_forward\.output_dense\.", ".feed_forward.down."),
    (r"\.final_layer_norm\.", ".feed_forward_norm."),
)
