// Lets flags of the benchmark programs be written with dashes, as users of other servers know them:
// --max-model-len as well as --max_model_len.
#pragma once

namespace bora {

// Replaces '-' by '_' in the names of flags in `argv`, in place, up to the word "--". Values, after
// '=' or in words of their own, are not changed, unless such a word itself begins with "--".
inline void NormalizeFlagNames(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    char* p = argv[i];
    if (p[0] != '-' || p[1] != '-') continue;
    if (p[2] == '\0') return;
    for (p += 2; *p != '\0' && *p != '='; ++p) {
      if (*p == '-') *p = '_';
    }
  }
}

}  // namespace bora
