// Finds the files of a model directory that hold its weights.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Limit of the files of an index. The largest published model of this form has fewer than 200.
inline constexpr size_t kMaxShards = 1000;

// The files to read. A plain value.
struct WeightFiles {
  std::vector<std::string> names;  // plain file names inside the directory, ascending
  // File name by stored tensor name, as the index says; empty if no index is used.
  std::map<std::string, std::string> shard_of;
  // A sentence for the log if the directory contradicts itself and something is ignored; else
  // empty.
  std::string note;
};

// Finds the weight files of one layout in `dir`: the shards that the index `index_name` names, or
// the single file `file_name`. The index has precedence if all its shards exist. If some are
// missing, `file_name` is used if it exists. NOT_FOUND lists missing files; INVALID_ARGUMENT
// describes a malformed index.
absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& dir, const std::string& index_name,
                                            const std::string& file_name);

}  // namespace bora
