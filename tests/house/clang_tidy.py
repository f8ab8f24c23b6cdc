"""clang-tidy over every file of the product that the release build compiles; .clang-tidy says what it looks for.

A file that was clean is not looked at again until it, a header that it includes, its flags or the checks have changed: what
was clean is remembered in $XDG_CACHE_HOME/bora-tidy. `clang_tidy.py FILE...` looks at these files only, whatever is remembered.
"""

import concurrent.futures
import hashlib
import json
import os
import subprocess
import sys

SOURCE_DIR = os.environ["BORA_SOURCE_DIR"]
BINARY_DIR = os.environ["BORA_BINARY_DIR"]
FOLDERS = ("base", "model", "kernels", "worker", "coordinator", "client")
TIDY = "clang-tidy-14"
CACHE_DIR = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "bora-tidy")


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compiled_files():
    """{path below the source: its entry in compile_commands.json}; one of several targets that compile the same file."""
    with open(os.path.join(BINARY_DIR, "compile_commands.json")) as file:
        entries = json.load(file)
    files = {}
    for entry in entries:
        path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), SOURCE_DIR)
        if path.split("/")[0] in FOLDERS and path.endswith(".cc"):
            files.setdefault(path, entry)
    return files


def dependencies():
    """{path of a source: the files that its compilation read}, as ninja knows them."""
    found = {}
    lines = []
    for line in output_of("ninja", "-C", BINARY_DIR, "-t", "deps").splitlines():
        if line.startswith("    "):
            lines.append(os.path.normpath(os.path.join(BINARY_DIR, line.strip())))
        else:
            lines = []
            if ": #deps" in line:
                found[line.split(": #deps")[0]] = lines
    return {paths[0]: paths for paths in found.values() if paths}


def fingerprint(path, entry, deps, checks):
    """What the verdict on the file depends on; None if that is not known."""
    paths = deps.get(os.path.join(SOURCE_DIR, path))
    if paths is None:
        return None
    digest = hashlib.sha256(checks)
    digest.update(entry["command"].replace(SOURCE_DIR, "").replace(BINARY_DIR, "").encode())
    for dependency in sorted(paths):
        if dependency.startswith((SOURCE_DIR + "/", BINARY_DIR + "/")):
            digest.update(os.path.relpath(dependency, SOURCE_DIR).encode())
            with open(dependency, "rb") as file:
                digest.update(file.read())
        else:
            digest.update(f"{dependency} {os.path.getsize(dependency)}".encode())
    return digest.hexdigest()


def look_at(path):
    result = subprocess.run([TIDY, "-p", BINARY_DIR, "--quiet", os.path.join(SOURCE_DIR, path)],
                            capture_output=True, text=True, preexec_fn=lambda: os.nice(10))
    return path, result.returncode == 0, result.stdout


def main(asked):
    files = compiled_files()
    checks = output_of(TIDY, "--version").encode()
    for config in (".clang-tidy", "kernels/.clang-tidy"):
        with open(os.path.join(SOURCE_DIR, config), "rb") as file:
            checks += file.read()
    deps = dependencies()
    marks = {}
    for path, entry in files.items():
        key = fingerprint(path, entry, deps, checks)
        marks[path] = os.path.join(CACHE_DIR, key) if key is not None else None
    os.makedirs(CACHE_DIR, exist_ok=True)
    todo = asked or [p for p in sorted(files) if marks[p] is None or not os.path.exists(marks[p])]
    print(f"{len(files)} files, {len(todo)} to look at", flush=True)
    n_bad = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, clean, text in pool.map(look_at, todo):
            if not clean:
                n_bad += 1
                print(text.strip(), flush=True)
            elif marks.get(path) is not None:
                open(marks[path], "w").close()
    print(f"{n_bad} files with findings")
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
