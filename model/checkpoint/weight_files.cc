#include "model/checkpoint/weight_files.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/json.h"

namespace bora {
namespace {

// Limit of the file names in a message.
constexpr size_t kMaxNamesShown = 5;

std::string PathOf(const std::string& dir, const std::string& name) {
  return absl::StrCat(dir, "/", name);
}

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

// INVALID_ARGUMENT unless `name` is a plain file name: an index must not reach outside its
// directory.
absl::Status CheckShardName(const std::string& name) {
  const bool plain = absl::EndsWith(name, ".safetensors") && name.front() != '.' &&
                     name.find_first_of("/\\\0", 0, 3) == std::string::npos;
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("weight_map names the file ", JsonQuote(name),
                   ", must be a plain *.safetensors name in the same directory"));
}

// Reads the text of an index: file name by stored tensor name.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(absl::string_view text) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text));
  const auto weight_map = json.is_object() ? json.find("weight_map") : json.end();
  if (weight_map == json.end() || !weight_map->is_object() || weight_map->empty()) {
    return absl::InvalidArgumentError("weight_map is missing, empty or not an object");
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("weight_map entry ", JsonQuote(tensor), " is not a string"));
    }
    const std::string& name = file.get_ref<const std::string&>();
    RETURN_IF_ERROR(CheckShardName(name));
    shard_of.emplace(tensor, name);
  }
  return shard_of;
}

// Reads and checks the index; fills names and shard_of.
absl::StatusOr<WeightFiles> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxJsonBytes));
  auto parsed = ParseIndex(text);
  if (!parsed.ok()) return Annotate(parsed.status(), path);
  WeightFiles files;
  files.shard_of = *std::move(parsed);
  std::set<std::string> names;
  for (const auto& [tensor, name] : files.shard_of) names.insert(name);
  if (names.size() > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": names ", names.size(), " files, the limit is ", kMaxShards));
  }
  files.names.assign(names.begin(), names.end());
  return files;
}

// "names 3 files, of which 2 are not here: a, b", for a message.
std::string MissingText(size_t n_names, std::vector<std::string> missing) {
  const size_t n = missing.size();
  missing.resize(std::min(n, kMaxNamesShown));
  return absl::StrCat("names ", n_names, " files, of which ", n, n == 1 ? " is" : " are",
                      " not here: ", absl::StrJoin(missing, ", "),
                      n > kMaxNamesShown ? ", ..." : "");
}

// A hint about weights in formats that are not read, in parentheses; empty if there are none.
std::string OtherFormats(const std::string& dir) {
  std::set<std::string> found;
  for (const std::string& name : ListFileNames(dir)) {
    const std::string extension = std::filesystem::path(name).extension().string();
    if (extension == ".bin" || extension == ".pth" || extension == ".pt" || extension == ".gguf") {
      found.insert("*" + extension);
    }
  }
  if (found.empty()) return "";
  return absl::StrCat(" (", absl::StrJoin(found, ", "),
                      " files are here, but only safetensors are read)");
}

}  // namespace

absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& dir, const std::string& index_name,
                                            const std::string& file_name) {
  const bool has_file = Exists(PathOf(dir, file_name));
  if (!Exists(PathOf(dir, index_name))) {
    if (has_file) return WeightFiles{.names = {file_name}};
    return absl::NotFoundError(absl::StrCat(dir, ": no weights: neither ", index_name, " nor ",
                                            file_name, OtherFormats(dir)));
  }
  ASSIGN_OR_RETURN(WeightFiles files, ReadIndex(PathOf(dir, index_name)));
  std::vector<std::string> missing;
  for (const std::string& name : files.names) {
    if (!Exists(PathOf(dir, name))) missing.push_back(name);
  }
  if (missing.empty()) {
    if (has_file &&
        std::find(files.names.begin(), files.names.end(), file_name) == files.names.end()) {
      files.note = absl::StrCat(file_name, " is not read: ", index_name,
                                " names other files, and they are here");
    }
    return files;
  }
  const std::string text = MissingText(files.names.size(), std::move(missing));
  if (!has_file) return absl::NotFoundError(absl::StrCat(PathOf(dir, index_name), ": ", text));
  return WeightFiles{.names = {file_name},
                     .note = absl::StrCat(file_name, " is read: ", index_name, " ", text)};
}

}  // namespace bora
