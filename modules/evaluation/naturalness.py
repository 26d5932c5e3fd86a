"""How people would rate the sound."""

from __future__ import annotations

from modules.audio.resample import SPEECH_RATE
from modules.evaluation.base import Case, Figure, Measured, Metric, NotMeasured, Tools
from modules.evaluation.recording import Recording

INSTALL = "pip install -r requirements-eval.txt"
LOWEST = 1.0  # of the scale


class Naturalness(Metric):
    """DNSMOS: what a network that learned listeners' ratings of speech says (1 to 5, higher is better).

    SIG rates the voice, BAK the absence of noise, OVRL both. It was made for noisy speech at 16 kHz: it rates singing
    lower than speech and knows nothing above 8 kHz, so the source's own rating stands beside it, and the drop from
    there (lower is better) says more than the rating. Source: Reddy et al., "DNSMOS P.835", 2022; models by
    speechmos (MIT).
    """

    _SOURCE = "Reddy et al., 2022; speechmos"
    figures = (
        Figure("dnsmos_ovrl", "DNSMOS OVRL", "1–5", "higher", _SOURCE, 2),
        Figure("dnsmos_sig", "DNSMOS SIG", "1–5", "higher", _SOURCE, 2),
        Figure("dnsmos_bak", "DNSMOS BAK", "1–5", "higher", _SOURCE, 2),
        Figure("dnsmos_ovrl_source", "DNSMOS OVRL of the source", "1–5", None, _SOURCE, 2),
        Figure("dnsmos_drop", "DNSMOS OVRL lost", "1–5", "lower", _SOURCE, 2),
    )

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise NotMeasured(f"{INSTALL} ({error})") from None
        self._run = dnsmos.run

    def rate(self, recording: Recording) -> dict[str, float]:
        """SIG, BAK and OVRL by the package's names; silence has the lowest of the scale."""
        return recording.remember("dnsmos", lambda: self._rate(recording))

    def _rate(self, recording: Recording) -> dict[str, float]:
        audio = recording.speech.clip(-1, 1)
        names = ("sig_mos", "bak_mos", "ovrl_mos")
        if not audio.any():
            return dict.fromkeys(names, LOWEST)
        found = self._run(audio, sr=SPEECH_RATE)
        return {name: float(found[name]) for name in names}

    def measure(self, case: Case) -> Measured:
        output, source = self.rate(case.output), self.rate(case.source)
        return Measured(
            {
                "dnsmos_ovrl": output["ovrl_mos"],
                "dnsmos_sig": output["sig_mos"],
                "dnsmos_bak": output["bak_mos"],
                "dnsmos_ovrl_source": source["ovrl_mos"],
                "dnsmos_drop": source["ovrl_mos"] - output["ovrl_mos"],
            }
        )
