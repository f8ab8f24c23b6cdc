// The edit distance between two words, for "did you mean".
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "absl/strings/string_view.h"

namespace bora {

// The least number of edits that turn `a` into `b`, where an edit inserts, deletes or replaces a
// letter or swaps two neighbouring letters (optimal string alignment distance). Time and memory
// O(|a| |b|).
inline int EditDistance(absl::string_view a, absl::string_view b) {
  // rows[i][j] is the distance between the first i letters of `a` and the first j of `b`.
  std::vector<std::vector<int>> rows(a.size() + 1, std::vector<int>(b.size() + 1));
  std::iota(rows[0].begin(), rows[0].end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    rows[i][0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replaced = rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      rows[i][j] = std::min({replaced, rows[i - 1][j] + 1, rows[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        rows[i][j] = std::min(rows[i][j], rows[i - 2][j - 2] + 1);
      }
    }
  }
  return rows[a.size()][b.size()];
}

}  // namespace bora
