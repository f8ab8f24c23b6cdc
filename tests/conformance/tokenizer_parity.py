"""Our tokenizer against SentencePiece's own tools, id for id and byte for byte.

The same lines go through spm_encode and tokenizer_cli, the same ids through spm_decode and
tokenizer_cli (whole, and as a stream), for each of these vocabularies:

  demo       the vocabulary of the demo model
  plain      trained here: dummy prefix, extra spaces removed, user-defined pieces, unknown id
  bytes      trained here: dummy prefix, byte fallback, pieces across spaces, user-defined pieces
             with spaces
  unused     `bytes` with every third normal piece turned into an unused one
  mistral    the published vocabulary of Mistral 7B, where BORA_MISTRAL_TOKENIZER or
             ../shared/data/mistral-tokenizer.model.v1 beside the source folder is that file

What is absent is skipped and counted. BORA_TEST_SEED sets the seed.

The tools work by lines, so a newline inside a text cannot be given to spm_encode; such texts are
compared with the Python binding of the same library, where it is installed. spm_decode can print
newlines, since the whole of both outputs is compared; it cannot be asked for no ids at all, since it
reads an empty line as the id 0. Any other byte, NUL and carriage return included, goes through.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(os.environ["BORA_SOURCE_DIR"])
CLI = pathlib.Path(os.environ["BORA_BINARY_DIR"]) / "bin" / "tokenizer_cli"
SEED = int(os.environ.get("BORA_TEST_SEED", "20240229"))
LINES = 21000
NEWLINE_TEXTS = 2000
ID_LINES = 6000
USER_DEFINED = ["[INST]", "[/INST]", "<sep>", "<sep><sep>", "é", "ab", "\U0001F600"]
USER_DEFINED_SPACES = USER_DEFINED + [" x ", "  ", "end "]


# --- texts ---------------------------------------------------------------------------------------

def make_words(rng):
    syllables = [a + b for a in "b d f k l m n r s t th qu".split() for b in "a e i o u ea".split()]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(600)]


def training_text(rng, words):
    lines = []
    weights = [1 / (i + 1) for i in range(len(words))]
    for _ in range(3000):
        line = rng.choices(words, weights, k=rng.randint(3, 14))
        if rng.random() < 0.3:
            line.insert(rng.randrange(len(line)), str(rng.randrange(100000)))
        if rng.random() < 0.2:
            line.append(rng.choice(["naïve", "Ωμέγα", "日本語", "привет", "été", "a  b"]))
        lines.append(" ".join(line).capitalize() + rng.choice(".?!,;"))
    return "\n".join(lines) + "\n"


def code_point(rng, low, high):
    while True:
        c = rng.randint(low, high)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def chunk(rng, words):
    """A few bytes of one kind."""
    kind = rng.randrange(13)
    n = rng.randint(1, 8)
    text = ""
    if kind == 0:  # any plane
        plane = rng.randrange(17)
        text = "".join(code_point(rng, plane << 16, (plane << 16) + 0xFFFF) for _ in range(n))
    elif kind == 1:  # scripts in common use
        low, high = rng.choice([(0xA0, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x6FF),
                                (0x900, 0x97F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)])
        text = "".join(code_point(rng, low, high) for _ in range(n))
    elif kind == 2:  # control characters
        text = "".join(rng.choice("\0\1\a\b\t\v\f\r\x1b\x7f\x80\x85\x9f") for _ in range(n))
    elif kind == 3:  # spaces
        text = "".join(rng.choice("    \t\u00a0\u2003\u3000\u2581\u200b") for _ in range(n))
    elif kind == 4:
        text = " " * rng.randint(1, 40)
    elif kind == 5:  # combining characters and joined emoji
        text = rng.choice(["e\u0301", "a\u0308\u0304", "👩\u200d👩\u200d👧", "🇫🇷", "👍🏽", "\ufe0f", "\u0e33"]) * n
    elif kind == 6:  # bytes that are no UTF-8: random, overlong, surrogates, too high, cut
        return b"".join(rng.choice([bytes([rng.randint(0x80, 0xFF)]), b"\xc0\xaf", b"\xe0\x80\x80",
                                    b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xe2\x96",
                                    b"\xf0\x9f\x98", b"\xef\xbf\xbd"]) for _ in range(n))
    elif kind == 7:
        text = str(rng.randrange(10 ** rng.randint(1, 20)))
    elif kind == 8:  # names of special pieces, whole and cut, and user-defined ones
        name = rng.choice(["<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0x0A>", "[INST", "<se"] + USER_DEFINED_SPACES)
        text = name * rng.choice([1, 1, 2, 3])
    elif kind == 9:
        text = rng.choice("aeno .x\u2581é") * rng.randint(1, 60)
    else:
        text = rng.choice([" ", " ", ""]).join(rng.choices(words, k=n))
    return text.encode()


def make_text(rng, words):
    text = b"".join(chunk(rng, words) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 8])))
    return text.replace(b"\n", b"")


# --- vocabularies --------------------------------------------------------------------------------

def train(folder, name, corpus, *flags):
    subprocess.run(["spm_train", f"--input={corpus}", f"--model_prefix={folder / name}", "--model_type=bpe",
                    "--normalization_rule_name=identity", "--character_coverage=0.999", *flags],
                   check=True, stderr=subprocess.DEVNULL)
    return folder / f"{name}.model"


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def with_unused_pieces(model):
    """The serialised model with type 5 (unused) for every third piece that has no type (normal)."""
    data, result, at, normal = model.read_bytes(), b"", 0, 0
    while at < len(data):
        start = at
        tag, at = varint(data, at)
        length, at = varint(data, at)  # all fields of the outer message are length-delimited
        body = data[at:at + length]
        at += length
        # A piece is text (field 1), a score (field 2: five bytes) and, unless normal, a type.
        if tag == 0x0A and len(body) == 2 + body[1] + 5 and body[1] > 3:
            normal += 1
            if normal % 3 == 0:
                body += b"\x18\x05"
                result += b"\x0a" + bytes([len(body)]) + body
                continue
        result += data[start:at]
    path = model.with_name("unused.model")
    path.write_bytes(result)
    return path


def vocabularies(folder, rng, words):
    corpus = folder / "corpus.txt"
    corpus.write_text(training_text(rng, words), encoding="utf-8")
    demo = SOURCE / "deploy" / "demo-model" / "tokenizer.model"
    mistral = pathlib.Path(os.environ.get(
        "BORA_MISTRAL_TOKENIZER", SOURCE.parent / "shared" / "data" / "mistral-tokenizer.model.v1"))
    # A comma in the flag's value separates; none of the symbols has one.
    plain = train(folder, "plain", corpus, "--vocab_size=500", "--user_defined_symbols=" + ",".join(USER_DEFINED))
    in_bytes = train(folder, "bytes", corpus, "--vocab_size=900", "--byte_fallback=true", "--split_by_whitespace=false",
                     "--remove_extra_whitespaces=false", "--allow_whitespace_only_pieces=true",
                     "--user_defined_symbols=" + ",".join(USER_DEFINED_SPACES))
    return {"demo": demo, "plain": plain, "bytes": in_bytes, "unused": with_unused_pieces(in_bytes),
            "mistral": mistral}, corpus


# --- comparisons ---------------------------------------------------------------------------------

def run(arguments, data):
    return subprocess.run([str(a) for a in arguments], input=data, stdout=subprocess.PIPE, check=True).stdout


def fail(what, given, expected, actual):
    print(f"MISMATCH {what}\n  given    {given!r}\n  expected {expected!r}\n  actual   {actual!r}")
    sys.exit(1)


def check_encode(name, model, texts):
    data = b"".join(text + b"\n" for text in texts)
    expected = run(["spm_encode", f"--model={model}", "--output_format=id"], data).split(b"\n")
    actual = run([CLI, "encode", model], data).split(b"\n")
    if len(expected) != len(texts) + 1 or len(actual) != len(texts) + 1:
        fail(f"{name}: number of lines", len(texts), len(expected) - 1, len(actual) - 1)
    for text, theirs, ours in zip(texts, expected, actual):
        if theirs != ours:
            fail(f"{name}: encode", text, theirs, ours)
    return expected[:-1]


def check_newlines(name, model, texts):
    try:
        import sentencepiece
    except ImportError:
        return 0
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    actual = run([CLI, "encode0", model], b"".join(text + b"\0" for text in texts)).split(b"\n")
    for text, ours in zip(texts, actual):
        theirs = " ".join(map(str, processor.encode(text))).encode()
        if theirs != ours:
            fail(f"{name}: encode", text, theirs, ours)
    return len(texts)


def random_ids(rng, n_pieces):
    """Ids of all kinds, with many of the first ones: special pieces, and bytes where there are any."""
    low = rng.choice([n_pieces, min(n_pieces, 300), 3])
    return " ".join(str(rng.randrange(low if rng.random() < 0.8 else n_pieces))
                    for _ in range(rng.randint(1, 30))).encode()


def check_decode(name, model, id_lines):
    data = b"".join(line + b"\n" for line in id_lines)
    spm = ["spm_decode", f"--model={model}", "--input_format=id"]
    expected = run(spm, data)
    for mode in ("decode", "stream"):
        if run([CLI, mode, model], data) == expected:
            continue
        for line in id_lines:  # slowly, to name the first
            theirs, ours = run(spm, line + b"\n"), run([CLI, mode, model], line + b"\n")
            if theirs != ours:
                fail(f"{name}: {mode}", line, theirs, ours)
        fail(f"{name}: {mode}", "all lines", "the same output", "another")


def main():
    if not all(map(shutil.which, ("spm_train", "spm_encode", "spm_decode"))):
        print("skipped: the package 'sentencepiece' is not installed")
        return 77
    print(f"seed {SEED} (BORA_TEST_SEED)")
    rng = random.Random(SEED)
    words = make_words(rng)
    skipped = []
    with tempfile.TemporaryDirectory() as temporary:
        models, corpus = vocabularies(pathlib.Path(temporary), rng, words)
        texts = [make_text(rng, words) for _ in range(LINES)]
        with_newlines = [make_text(rng, words).replace(b"\0", b"") + b"\n" + make_text(rng, words).replace(b"\0", b"\n\n")
                         for _ in range(NEWLINE_TEXTS)]
        speed_text = corpus.read_bytes() * 20
        for name, model in models.items():
            if not model.exists():
                skipped.append(f"{name} (no {model})")
                continue
            encoded = check_encode(name, model, texts)
            n_newlines = check_newlines(name, model, with_newlines)
            if n_newlines == 0:
                skipped.append(f"{name}: {NEWLINE_TEXTS} texts with newlines (no Python binding)")
            n_pieces = int(run([CLI, "size", model], b""))
            id_lines = [line for line in encoded if line] + [random_ids(rng, n_pieces) for _ in range(ID_LINES)]
            check_decode(name, model, id_lines)
            n_bytes, n_ids, seconds = map(float, run([CLI, "speed", model], speed_text).split())
            print(f"{name}: {len(texts) + n_newlines} texts encoded and {len(id_lines)} id lists decoded alike")
            print(f"figure tokenizer_encode_{name} {n_bytes / seconds / 1e6:.1f} MB/s")
            print(f"figure tokenizer_encode_{name} {n_ids / seconds / 1e6:.2f} Mtokens/s")
    print(f"vocabularies {len(models)}, skipped cases {len(skipped)}: {'; '.join(skipped) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
