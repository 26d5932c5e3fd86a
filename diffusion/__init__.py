"""Unit2Mel: diffusion from speech units to the mel of a vocoder, whole or shallow."""
