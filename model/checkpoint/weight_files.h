// Which files of a model directory hold its weights.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// The largest model published in this form has fewer than 200 shards.
inline constexpr size_t kMaxShards = 1000;

struct WeightFiles {
  std::vector<std::string> names;  // plain file names inside the directory, ascending
  // With an index: file name by stored tensor name. Empty without.
  std::map<std::string, std::string> shard_of;
  // What of the directory was not believed, for the log; empty when nothing contradicts.
  std::string note;
};

// Finds the files of one layout in `dir`: the shards that `index_name` names, or `file_name`. An
// index is believed when its shards are there, also beside `file_name`; an index without its shards
// is passed over when `file_name` is there. NOT_FOUND names what is missing; INVALID_ARGUMENT a
// malformed index.
absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& dir, const std::string& index_name,
                                            const std::string& file_name);

}  // namespace bora
