"""Step 5: convert songs in raw/ to the voice of a model; the results lie in results/.

python inference_main.py -m logs/44k/G_37600.pth -c logs/44k/config.json -n song.wav -t 0 -s alice
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.cli import BatchReport, describe_os_error, make_parser, run
from modules.errors import UserError
from modules.f0 import require_weights
from modules.inference.options import WAV_FORMATS, InferenceOptions, ModelOptions, idle_flags, is_cluster_file
from modules.options import add_arguments, check, from_namespace
from pretrain import BASE_DIR, BASE_GENERATOR, AllowDownload

if TYPE_CHECKING:
    from modules.inference.speaker_mix import SpeakerMix
    from modules.inference.svc import Svc

ROOT = Path(__file__).resolve().parent
BASE_NAME = "base"  # -m base: the model that comes with the project
MIX_NAME = "spk_mix"
INTERRUPTED = "finished songs are kept; the same command does them anew, with --skip_finished only the others"


def build_parser() -> argparse.ArgumentParser:
    """The command line; names and defaults are those of the options classes."""
    parser = make_parser("Convert songs to the voice of a trained model.")
    group = parser.add_argument_group("what to convert")
    group.add_argument(
        "-n",
        "--clean_names",
        nargs="+",
        required=True,
        help="songs: names in raw/, with or without extension, or paths; a folder is all songs in it",
    )
    group.add_argument(
        "-t",
        "--trans",
        nargs="+",
        type=float,
        default=[0.0],
        help="pitch shift of each song, semitones; the first one serves where there are too few",
    )
    group.add_argument(
        "-s", "--spk_list", nargs="+", default=[], help="speakers, by name or id; may be left out where there is one"
    )
    group.add_argument("-usm", "--use_spk_mix", action="store_true", help="sing with the speaker mix of spkmix.py")
    group.add_argument("-wf", "--wav_format", choices=WAV_FORMATS, default="flac", help="format of the results")
    group.add_argument("--out_dir", type=Path, default=Path("results"), help="folder of the results")
    group.add_argument("--skip_finished", action="store_true", help="leave out songs whose result is there already")
    group.add_argument("--download", action=AllowDownload)
    add_arguments(parser.add_argument_group("the model"), ModelOptions)
    inference = (field.name for field in dataclasses.fields(InferenceOptions) if field.name != "trans")
    add_arguments(parser.add_argument_group("the conversion"), InferenceOptions, only=tuple(inference))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and convert; 0 all done, 1 some songs failed, 2 cannot start."""
    return run(convert_all, build_parser().parse_args(argv), INTERRUPTED)


def convert_all(args: argparse.Namespace) -> int:
    """Every song to every speaker."""
    from modules.inference.names import all_songs, find_song, free_path, result_name

    folders = [Path("raw"), *([ROOT / "raw"] if Path("raw").resolve() != ROOT / "raw" else [])]
    names = all_songs(args.clean_names, folders)
    given = from_namespace(ModelOptions, args)
    model_options = _from_anywhere(given)
    shifts = fill_up(args.trans, len(names))
    options = [from_namespace(InferenceOptions, args, trans=shift) for shift in shifts]
    for line in idle_flags(given, options[0]):
        print(f"warning: {line}", file=sys.stderr)
    svc = load(model_options, options)
    speakers = choose_speakers(svc, args)
    report, taken = BatchReport("song"), set()
    for name, song_options in zip(names, options, strict=True):
        try:
            song = find_song(name, folders)
        except UserError as error:
            report.fail(name, error)
            continue
        taken.add(song.resolve())
        for label, speaker in speakers.items():
            file_name = result_name(song, label, model_options, song_options, args.wav_format)
            target = free_path(args.out_dir / file_name, taken)
            taken.add(target.resolve())
            if args.skip_finished and target.is_file():
                report.skip(f"{name} to {label}", f"{target} is there")
                continue
            try:
                convert_one(svc, song, target, speaker, song_options)
                report.ok()
            except Exception as error:  # whatever it is, the other songs are not to be lost
                if args.debug:
                    raise
                report.fail(f"{name} to {label}", _explain(error))
    return report.finish()


def load(model: ModelOptions, conversions: Sequence[InferenceOptions]) -> Svc:
    """The voice; all that can be seen to be wrong is refused before it is loaded, and before a song is read."""
    check(model)
    for conversion in conversions:
        conversion.check()
    pretrain_dir = _folder("pretrain")
    if model.onnx is None:
        require_weights(conversions[0].f0_predictor, pretrain_dir)

    from modules.inference.speaker_mix import shared_ids
    from modules.inference.svc import Svc

    svc = Svc.load(model, pretrain_dir)
    for conversion in conversions:
        svc.check(conversion)
    if line := shared_ids(svc.speakers):
        print(f"warning: {line}", file=sys.stderr)
    return svc


def convert_one(svc: Svc, song: Path, target: Path, speaker: str | SpeakerMix, options: InferenceOptions) -> None:
    """Convert a song, show how far it is, and say where the result lies."""
    from modules.progress import meter

    start = time.monotonic()
    with meter(f"{song.name} -> {target.name}") as progress:
        report = svc.convert_file(song, target, speaker, options, progress)
    seconds = time.monotonic() - start
    print(f"{target}: {report.seconds:.1f} s of audio in {seconds:.1f} s", flush=True)
    for warning in report.warnings:
        print(f"warning: {song.name}: {warning}", file=sys.stderr)


def fill_up(shifts: list[float], count: int) -> list[float]:
    """One shift a song; the first one serves for those that have none.

    Raises:
        UserError: more shifts than songs.
    """
    if len(shifts) > count:
        raise UserError(f"{len(shifts)} shifts for {count} song(s)", "--trans", "give one shift, or one for each song")
    return shifts + [shifts[0]] * (count - len(shifts))


def choose_speakers(svc: Svc, args: argparse.Namespace) -> dict[str, str | SpeakerMix]:
    """Who sings, by the name that goes into the name of the result.

    Raises:
        UserError: an unknown speaker, none where the model has several, or a wrong mix.
    """
    if args.use_spk_mix:
        from modules.inference.speaker_mix import SpeakerMix

        return {MIX_NAME: SpeakerMix.from_map(read_mix(), svc.speakers, svc.n_speakers)}
    names = args.spk_list
    if not names:
        if len(svc.speakers) != 1:
            known = ", ".join(svc.speakers)
            raise UserError("no speaker is chosen", "--spk_list", f"choose one or more of: {known}")
        names = list(svc.speakers)
    for name in names:
        svc.resolve_speaker(name)
    return {name: name for name in names}


def read_mix() -> Any:
    """spk_mix_map of spkmix.py. Raises UserError where the file does not run or has no such map."""
    where = ROOT / "spkmix.py"
    try:
        import spkmix

        return spkmix.spk_mix_map
    except AttributeError:
        raise UserError("there is no spk_mix_map", where, "name the map so, as the text in the file shows") from None
    except SyntaxError as error:
        what = f"the file is no Python: {error.msg}"
        raise UserError(what, f"{where}, line {error.lineno}", "mend the line; brackets, commas and quotes") from None
    except Exception as error:  # what a user wrote into it can fail in any way
        what = f"the file does not run: {type(error).__name__}: {error}"
        raise UserError(what, where, "mend it, as the text in the file shows") from None


def _explain(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return str(describe_os_error(error))
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _folder(name: str) -> Path:
    """A folder of the project: in the current folder where it is there, else beside this script."""
    return Path(name) if Path(name).is_dir() else ROOT / name


def _from_anywhere(options: ModelOptions) -> ModelOptions:
    """The same options with relative paths that only exist beside this script pointing there.

    The config's default path stays as it is, because a .safetensors model then takes the config that it carries.
    """
    if options.model_path == Path(BASE_NAME):
        options = dataclasses.replace(options, model_path=BASE_DIR / BASE_GENERATOR)
    found = {}
    fields = list(dataclasses.fields(options))
    if options.model_path.suffix == ".safetensors" and options.config_path == ModelOptions().config_path:
        fields = [field for field in fields if field.name != "config_path"]
    for field in fields:
        path = getattr(options, field.name)
        if isinstance(path, Path) and not path.exists() and (ROOT / path).exists():
            found[field.name] = ROOT / path
    options = dataclasses.replace(options, **found)
    timbre = options.cluster_path()
    if not is_cluster_file(timbre) and is_cluster_file(ROOT / timbre):
        options = dataclasses.replace(options, cluster_model_path=ROOT / timbre)
    return options


if __name__ == "__main__":
    sys.exit(main())
