"""House rules that a reader relies on and a compiler does not check."""

import json
import os
import re
import subprocess
import tempfile
import unittest

SOURCE_DIR = os.environ["BORA_SOURCE_DIR"]
BINARY_DIR = os.environ["BORA_BINARY_DIR"]

# Which folders the files of a folder may include, besides their own. The step and the sampling parameters are plain data
# without code; operations may know them.
ALLOWED_INCLUDES = {
    "base": set(),
    "kernels": {"base", "model/step.h", "model/sampling_params.h"},
    "model": {"base", "proto"},
    "worker": {"base", "proto", "model", "kernels"},
    "coordinator": {"base", "proto", "model"},
    "client": {"base", "proto", "model"},
}
# Generated headers are proto's.
PROTO_PREFIXES = ("bora/", "google/rpc/", "grpc/health/")
# Where the engine would need gRPC or protobuf if one of these included them.
RPC_HEADERS = re.compile(r"^(grpc|grpcpp|google/protobuf)/")
RPC_FILES = {
    "base/rpc_log.h", "base/rpc_log.cc",
    "model/worker_auth.h", "model/worker_auth.cc", "model/worker_codec.h", "model/worker_codec.cc",
    "worker/coordinator_client.h", "worker/coordinator_client.cc", "worker/main.cc"
}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.M)


def tracked(*suffixes):
    files = subprocess.run(["git", "-C", SOURCE_DIR, "ls-files", "--cached", "--others", "--exclude-standard"],
                           capture_output=True, text=True, check=True).stdout.split("\n")
    return [f for f in files if f.endswith(suffixes) and os.path.exists(os.path.join(SOURCE_DIR, f))]


def read(path):
    with open(os.path.join(SOURCE_DIR, path), errors="replace") as file:
        return file.read()


def folder_of(include):
    if include.startswith(PROTO_PREFIXES):
        return "proto"
    first = include.split("/")[0]
    return first if first in ALLOWED_INCLUDES else None


class HouseTest(unittest.TestCase):

    def test_includes_follow_the_dependency_direction(self):
        wrong = []
        for path in tracked(".h", ".cc", ".cu", ".inc"):
            folder = path.split("/")[0]
            if folder not in ALLOWED_INCLUDES:
                continue
            for include in INCLUDE.findall(read(path)):
                other = folder_of(include)
                allowed = ALLOWED_INCLUDES[folder]
                if other not in (None, folder) and other not in allowed and include not in allowed:
                    wrong.append(f"{path} includes {include}")
        self.assertEqual(wrong, [])

    def test_the_engine_includes_no_rpc(self):
        wrong = []
        for path in tracked(".h", ".cc"):
            if path.split("/")[0] not in ("base", "kernels", "model", "worker") or path in RPC_FILES:
                continue
            for include in INCLUDE.findall(read(path)):
                if RPC_HEADERS.match(include) or include.startswith(PROTO_PREFIXES):
                    wrong.append(f"{path} includes {include}")
        self.assertEqual(wrong, [])

    def test_every_header_says_what_it_is_for(self):
        silent = [p for p in tracked(".h") if not read(p).startswith("//")]
        self.assertEqual(silent, [])

    def test_every_test_file_is_in_a_target(self):
        with open(os.path.join(BINARY_DIR, "compile_commands.json")) as file:
            compiled = {os.path.realpath(entry["file"]) for entry in json.load(file)}
        cmake = "\n".join(read(p) for p in tracked("CMakeLists.txt", ".cmake"))
        # Those of tests/gpu are compiled only where the CUDA Toolkit is.
        forgotten = [
            p for p in tracked("_test.cc") if os.path.realpath(os.path.join(SOURCE_DIR, p)) not in compiled and
            not (p.startswith("tests/gpu/") and os.path.basename(p) in cmake)
        ]
        self.assertEqual(forgotten, [])
        forgotten = [
            p for p in tracked("_test.py")
            if p.startswith("tests/") and not re.search(r"\b" + re.escape(os.path.basename(p)), cmake)
        ]
        self.assertEqual(forgotten, [])

    def test_sources_are_formatted(self):
        files = tracked(".h", ".cc", ".cu", ".cuh", ".inc")
        result = subprocess.run(["clang-format-14", "--dry-run", "-Werror"] + files, cwd=SOURCE_DIR,
                                capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr[:4000])

    def test_every_element_of_the_public_api_is_documented(self):
        from google.protobuf import descriptor_pb2
        with tempfile.NamedTemporaryFile() as out:
            protos = [
                os.path.relpath(p, "proto") for p in tracked(".proto")
                if p.startswith("proto/bora/inference/") or p.startswith("proto/bora/admin/")
            ]
            subprocess.run(["protoc", "-I", "proto", "--include_source_info", f"--descriptor_set_out={out.name}"] +
                           protos, cwd=SOURCE_DIR, check=True)
            files = descriptor_pb2.FileDescriptorSet.FromString(out.read())
        silent = []
        for file in files.file:
            comments = {
                tuple(location.path): location.leading_comments.strip()
                for location in file.source_code_info.location
            }

            def check(path, name):
                if not comments.get(tuple(path)):
                    silent.append(f"{file.name}: {name}")

            def check_message(path, message):
                check(path, message.name)
                for i, field in enumerate(message.field):
                    check(path + [2, i], f"{message.name}.{field.name}")
                for i, nested in enumerate(message.nested_type):
                    check_message(path + [3, i], nested)
                for i, enum in enumerate(message.enum_type):
                    check_enum(path + [4, i], enum)

            def check_enum(path, enum):
                check(path, enum.name)
                for i, value in enumerate(enum.value):
                    check(path + [2, i], f"{enum.name}.{value.name}")

            for i, message in enumerate(file.message_type):
                check_message([4, i], message)
            for i, enum in enumerate(file.enum_type):
                check_enum([5, i], enum)
            for i, service in enumerate(file.service):
                check([6, i], service.name)
                for j, method in enumerate(service.method):
                    check([6, i, 2, j], f"{service.name}.{method.name}")
        self.assertEqual(silent, [])

    def test_packages_are_listed_once(self):
        packages = [line.split()[1] for line in read("deploy/packages.txt").splitlines()
                    if line.strip() and not line.startswith("#")]
        self.assertEqual(len(packages), len(set(packages)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
