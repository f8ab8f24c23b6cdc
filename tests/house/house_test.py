"""House rules that a reader relies on and a compiler does not check."""

import collections
import json
import os
import re
import subprocess
import tempfile
import unittest

SOURCE_DIR = os.environ["BORA_SOURCE_DIR"]
BINARY_DIR = os.environ["BORA_BINARY_DIR"]

# The rooms of the house, from the lowest floor up: which rooms the files of a room may include, besides their own. A room is
# a folder, or a folder inside one of those; what lies deeper belongs to its room. Directions that matter:
#   - kernels are contracts that know the step and nothing else of model/; their CPU and CUDA forms do not know each other;
#   - a worker's devices (cpu, cuda, sim) do not know each other, its transport knows no model;
#   - the scheduler knows the step, and neither the engine above it nor a wire;
#   - what a request is (coordinator/api) and what becomes of a call (coordinator/call) know no transport: a second front end is
#     a room beside coordinator/grpc.
ROOMS = {
    "base": set(),
    "base/flags": {"base"},
    "base/host": {"base"},
    "base/rpc": {"base"},
    "base/auth": {"base", "base/host"},
    "model/step": {"base"},
    "model": {"base", "base/host", "model/step"},
    "model/checkpoint": {"base", "base/host", "model"},
    "model/planning": {"base", "base/flags", "model", "model/step"},
    "model/text": {"base", "model"},
    "model/protocol": {"base", "base/auth", "proto", "model", "model/checkpoint", "model/step"},
    "model/tools": {"base", "base/flags", "base/host", "model", "model/checkpoint"},
    "kernels": {"base", "model/step"},
    "kernels/cpu": {"base", "base/host", "kernels"},
    "kernels/cuda": {"base", "kernels"},
    "kernels/nccl": {"base"},
    "worker/comm": {"base", "base/auth", "base/host"},
    "worker/weights": {"base", "base/host", "kernels", "kernels/cpu", "model", "model/checkpoint", "model/planning"},
    "worker/stage": {
        "base", "kernels", "kernels/cpu", "model", "model/checkpoint", "model/planning", "model/protocol", "model/step",
        "worker/comm", "worker/weights"
    },
    "worker/cpu": {"base", "base/host", "kernels", "kernels/cpu", "model/step", "worker/stage", "worker/weights"},
    "worker/cuda": {
        "base", "base/host", "kernels", "kernels/cpu", "kernels/cuda", "kernels/nccl", "model", "model/planning", "model/step",
        "worker/stage", "worker/weights"
    },
    "worker/sim": {"base", "model", "model/planning", "model/step", "worker/stage", "worker/weights"},
    "worker": {
        "base", "base/auth", "base/flags", "base/host", "base/rpc", "proto", "kernels/cpu", "model/protocol", "worker/comm",
        "worker/cpu", "worker/cuda", "worker/sim", "worker/stage", "worker/weights"
    },
    "coordinator/scheduler": {"base", "model/step"},
    "coordinator/api": {"base", "base/host", "proto", "coordinator/scheduler", "model", "model/step", "model/text"},
    "coordinator/call": {"base", "proto", "coordinator/api", "model/step", "model/text"},
    "coordinator/cluster": {"base", "coordinator/api", "model/checkpoint", "model/protocol", "model/step"},
    "coordinator/engine": {
        "base", "coordinator/api", "coordinator/cluster", "coordinator/scheduler", "model/protocol", "model/step", "model/text"
    },
    "coordinator/grpc": {"base", "base/host", "proto", "coordinator/api", "coordinator/call", "model/protocol", "model/text"},
    "coordinator/worker_port": {
        "base", "base/host", "proto", "coordinator/cluster", "coordinator/grpc", "model/protocol", "model/step"
    },
    "coordinator": {
        "base", "base/auth", "base/flags", "base/host", "base/rpc", "coordinator/api", "coordinator/engine", "coordinator/grpc",
        "coordinator/worker_port", "model", "model/checkpoint", "model/planning", "model/text"
    },
    "client": {"base", "base/flags", "base/host", "base/rpc", "proto", "model", "model/checkpoint", "model/planning"},
}
FOLDERS = {room.split("/")[0] for room in ROOMS}
# Most files that lie side by side in a folder of the product, and most lines of a file of it.
MAX_FOLDER_FILES = 25
MAX_FILE_LINES = 560
# Generated headers are proto's.
PROTO_PREFIXES = ("bora/", "google/rpc/", "grpc/health/")
# Where the engine would need gRPC or protobuf if one of these included them.
RPC_HEADERS = re.compile(r"^(grpc|grpcpp|google/protobuf)/")
RPC_FILES = {
    "base/rpc/rpc_log.h", "base/rpc/rpc_log.cc",
    "model/protocol/sampling_codec.h", "model/protocol/sampling_codec.cc", "model/protocol/worker_auth.h",
    "model/protocol/worker_auth.cc", "model/protocol/worker_codec.h", "model/protocol/worker_codec.cc",
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


def room_of(path):
    """The room of a file or of what an #include names; None outside the house."""
    if path.startswith(PROTO_PREFIXES):
        return "proto"
    room = "/".join(path.split("/")[:-1][:2])
    return room if room in ROOMS else None


def product_files(*suffixes):
    return [p for p in tracked(*suffixes) if p.split("/")[0] in FOLDERS]


class HouseTest(unittest.TestCase):

    def test_includes_follow_the_dependency_direction(self):
        wrong = []
        for path in product_files(".h", ".cc", ".cu", ".inc"):
            room = room_of(path)
            self.assertIsNotNone(room, f"{path}: a new room has a line in ROOMS")
            for include in INCLUDE.findall(read(path)):
                other = room_of(include)
                if other not in (None, room) and other not in ROOMS[room]:
                    wrong.append(f"{path} includes {include}")
        self.assertEqual(wrong, [])

    def test_no_floor_stands_on_one_above_it(self):
        below = {"proto"}
        for room, allowed in ROOMS.items():
            self.assertEqual(allowed - below, set(), f"{room} stands on rooms that are listed after it")
            below.add(room)

    def test_folders_and_files_are_small(self):
        n_files = collections.Counter(os.path.dirname(p) for p in product_files(".h", ".cc", ".cu", ".inc"))
        self.assertEqual({folder: n for folder, n in n_files.items() if n > MAX_FOLDER_FILES}, {})
        lengths = {p: read(p).count("\n") for p in product_files(".h", ".cc", ".cu", ".inc")}
        self.assertEqual({p: n for p, n in lengths.items() if n > MAX_FILE_LINES}, {})

    def test_the_coordinators_core_and_the_engine_include_no_rpc(self):
        """Everything but the services and the codec builds without gRPC and protobuf; requests and calls know no gRPC."""
        wrong = []
        for path in product_files(".h", ".cc"):
            room = room_of(path)
            if room in ("coordinator", "coordinator/grpc", "coordinator/worker_port", "client") or path in RPC_FILES:
                continue
            for include in INCLUDE.findall(read(path)):
                is_grpc = re.match(r"^(grpc|grpcpp)/", include) or include.endswith(".grpc.pb.h")
                is_rpc = RPC_HEADERS.match(include) or include.startswith(PROTO_PREFIXES)
                if is_grpc or is_rpc and room not in ("coordinator/api", "coordinator/call"):
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
