"""Keys of a config that so-vits-svc has, and that change nothing here or there: who sets one should know."""

from __future__ import annotations

from modules.config import Config, DiffusionConfig, Section

IGNORED = {
    "train": ("use_sr", "init_lr_ratio", "port"),
    "data": ("max_wav_value",),
    "model": ("n_layers_q", "speaker_embedding"),
}
IGNORED_DIFFUSION = {
    "data": ("extensions", "encoder_sample_rate", "encoder_hop_size", "cnhubertsoft_gate"),
    "model": ("type",),
}


def ignored_keys(config: Config | DiffusionConfig) -> list[str]:
    """A line that names the keys with another value than the default, which is not used either; or none."""
    found = []
    for name, keys in (IGNORED if isinstance(config, Config) else IGNORED_DIFFUSION).items():
        section: Section = getattr(config, name)
        for key in keys:
            value, default = getattr(section, key), type(section).model_fields[key].default
            if value != default and str(value) != str(default):  # a port is a number or a text
                found.append(f"{name}.{key} ({value!r})")
    return [f"read and not used: {', '.join(found)}"] if found else []
