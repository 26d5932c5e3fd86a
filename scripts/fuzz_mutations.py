"""Mutations of files: of bytes, of pickle opcodes, of the entries of archives, of the values of texts."""

from __future__ import annotations

import io
import json
import pickletools
import random
import re
import struct
import zipfile

NUMBERS = (0, 1, -1, 2, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -(2**63), 10**30)
WORDS = (
    *("", "null", "true", "[]", "{}", '"x"', "1e999", "-1e999", "NaN", ".inf", "0.5", "-0.5", '"\\ud800"', "[[[]]]"),
    *("9" * 5000, "[" * 3000, '"' + "x" * 3000 + '"', '"../../etc/passwd"', '"\\u0000"', "[1, 2, 3]", '{"a": 1}'),
    *map(str, NUMBERS),
)
VALUES = (b"K\x00", b"N", b"]", b"}", b")", b"X\x01\x00\x00\x00a", b"G\x7f\xf0" + b"\0" * 6, b"\x88")  # opcodes
TEXTS = {".json", ".jsonl", ".yaml", ".txt", ".py", ".csv"}
SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null')


def mutate(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """A broken copy of a file."""
    if suffix in TEXTS:
        return _text(data, rng)
    if data[:4] == b"PK\3\4" and rng.random() < 0.85:
        return _archive(data, rng)
    if data[:1] == b"\x80" and rng.random() < 0.7:
        return _pickle(data, rng)
    return _bytes(data, rng)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, lost, doubled or put in; the head of a file is hit as often as the rest."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(len(out), 512 if rng.random() < 0.5 else len(out)) or 1) if out else 0
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            out[at:at] = out[at : at + rng.randrange(1, 256)]
        elif kind == 5:
            code = rng.choice(["<I", "<H", "<q", ">I", ">H", ">q"])
            size = struct.calcsize(code)
            number = rng.choice(NUMBERS) % 2 ** (8 * size - (code[1] == "q"))
            out[at : at + size] = struct.pack(code, number)
        else:
            out[at:at] = rng.randbytes(rng.randrange(1, 32))
    return bytes(out)


def _pickle(data: bytes, rng: random.Random) -> bytes:
    """Opcodes lost, doubled, moved, or with other arguments."""
    try:
        ends = [position for _, _, position in pickletools.genops(data)]
    except Exception:  # already broken
        return _bytes(data, rng)
    spans = list(zip(ends, [*ends[1:], len(data)], strict=True))
    parts = [data[start:stop] for start, stop in spans]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(parts))
        kind = rng.randrange(7)
        if kind == 0:
            del parts[at]
        elif kind == 1:
            parts.insert(at, parts[rng.randrange(len(parts))])
        elif kind == 2:
            parts[at] = parts[rng.randrange(len(parts))]
        elif kind == 3:
            parts.insert(at, b"\x8a\x09" + (rng.choice(NUMBERS) % 2**63).to_bytes(9, "little"))
        elif kind == 4:
            parts.insert(at, b")" + b"\x85" * rng.choice((1, 3, 5000)))
        elif kind == 5:
            parts[at] = rng.choice(VALUES)
        else:
            parts[at] = _bytes(parts[at], rng)
        if not parts:
            break
    return b"".join(parts)


def _archive(data: bytes, rng: random.Random) -> bytes:
    """One entry changed, in an archive whose checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        entries = [(info.filename, source.read(info)) for info in source.infolist()]
    mains = [index for index, (name, _) in enumerate(entries) if name.endswith((".pkl", ".npy", ".json"))]
    at = rng.choice(mains) if mains and rng.random() < 0.8 else rng.randrange(len(entries))
    name, content = entries[at]
    kind = rng.random()
    if kind < 0.85:
        entries[at] = (name, mutate(content, ".json" if name.endswith(".json") else "", rng))
    elif kind < 0.9:
        del entries[at]
    elif kind < 0.95:
        entries[at] = (rng.choice(("../x", "/x", "x" * 300, "a\\b", ".", name + "2")), content)
    else:
        entries[at] = (name, b"\0" * 20_000_000)  # packs to next to nothing
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return target.getvalue()


def _text(data: bytes, rng: random.Random) -> bytes:
    """Values replaced, lines lost or doubled, and now and then any bytes."""
    kind = rng.random()
    if kind < 0.15:
        return _bytes(data, rng)
    if kind < 0.3:
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [lines[rng.randrange(len(lines))]], [lines[at][1:]]))
        return b"\n".join(lines)
    scalars = list(SCALAR.finditer(data))
    if not scalars:
        return _bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2))):
        match = rng.choice(scalars)
        word = rng.choice(WORDS) if rng.random() < 0.8 else json.dumps(rng.random() * 10 ** rng.randrange(-3, 12))
        data = data[: match.start()] + word.encode() + data[match.end() :]
        scalars = list(SCALAR.finditer(data)) or scalars
    return data
