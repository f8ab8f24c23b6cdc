#include "model/text/tokenizer_model.h"

#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/git_lfs.h"

namespace bora {
namespace {

// The protobuf wire format: https://protobuf.dev/programming-guides/encoding/
enum class WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// One field of a message. `bytes` points into the message.
struct Field {
  uint32_t number = 0;
  WireType type = WireType::kVarint;
  uint64_t value = 0;       // for kVarint, kFixed64 and kFixed32
  absl::string_view bytes;  // for kBytes
};

// The number in up to 8 little-endian bytes.
uint64_t LittleEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// Reads the fields of one message in order. Checks every length before it reads. Owned by one
// thread.
class FieldReader {
 public:
  explicit FieldReader(absl::string_view message) : message_(message) {}

  // The next field, or nullopt at the end of the message.
  absl::StatusOr<std::optional<Field>> Next() {
    if (at_ == message_.size()) return std::optional<Field>();
    ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    Field field;
    field.number = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<WireType>(tag & 7);
    if (tag > UINT32_MAX || field.number == 0) {
      return Error(absl::StrFormat("field tag %d is out of range", tag));
    }
    switch (field.type) {
      case WireType::kVarint: {
        ASSIGN_OR_RETURN(field.value, Varint());
        break;
      }
      case WireType::kBytes: {
        ASSIGN_OR_RETURN(const uint64_t n_bytes, Varint());
        ASSIGN_OR_RETURN(field.bytes, Take(n_bytes));
        break;
      }
      case WireType::kFixed32: {
        ASSIGN_OR_RETURN(const absl::string_view fixed, Take(4));
        field.value = LittleEndian(fixed);
        break;
      }
      case WireType::kFixed64: {
        ASSIGN_OR_RETURN(const absl::string_view fixed, Take(8));
        field.value = LittleEndian(fixed);
        break;
      }
      default:  // groups (3, 4), which protobuf has given up, and undefined wire types
        return Error(absl::StrFormat("field %d has wire type %d, which is not supported",
                                     field.number, tag & 7));
    }
    return std::optional<Field>(field);
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("byte ", at_, " of ", message_.size(), ": ", what));
  }

  // At most ten bytes of seven bits; the tenth may hold one bit only.
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == message_.size()) return Error("the message ends inside a number");
      const auto byte = static_cast<uint8_t>(message_[at_++]);
      if (shift == 63 && byte > 1) break;
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    return Error("a number of more than 64 bits");
  }

  // The next n_bytes of the message.
  absl::StatusOr<absl::string_view> Take(uint64_t n_bytes) {
    const uint64_t n_left = message_.size() - at_;
    if (n_bytes > n_left) {
      return Error(absl::StrFormat("a field of %d bytes, but %d are left", n_bytes, n_left));
    }
    const absl::string_view taken = message_.substr(at_, n_bytes);
    at_ += n_bytes;
    return taken;
  }

  absl::string_view message_;
  size_t at_ = 0;
};

// Calls visit(field), which returns a Status, for each field of `message`; stops at the first
// error.
template <typename Visit>
absl::Status ForEachField(absl::string_view message, const Visit& visit) {
  FieldReader reader(message);
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<Field> field, reader.Next());
    if (!field.has_value()) return absl::OkStatus();
    RETURN_IF_ERROR(visit(*field));
  }
}

absl::Status ExpectType(const Field& field, WireType type) {
  if (field.type == type) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("field %d has wire type %d, expected %d",
                                                    field.number, static_cast<int>(field.type),
                                                    static_cast<int>(type)));
}

absl::StatusOr<bool> Bool(const Field& field) {
  RETURN_IF_ERROR(ExpectType(field, WireType::kVarint));
  return field.value != 0;
}

absl::StatusOr<std::string> String(const Field& field) {
  RETURN_IF_ERROR(ExpectType(field, WireType::kBytes));
  return std::string(field.bytes);
}

// The fields of ModelProto that are not part of the vocabulary. Field numbers in the functions
// below, and the defaults here, are those of sentencepiece_model.proto.
struct ModelSpec {
  uint64_t model_type = 1;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  std::string pad_piece = "<pad>";
};

absl::StatusOr<Piece> ParsePiece(absl::string_view message) {
  Piece piece;
  RETURN_IF_ERROR(ForEachField(message, [&](const Field& field) -> absl::Status {
    if (field.number == 1) {
      ASSIGN_OR_RETURN(piece.text, String(field));
    } else if (field.number == 2) {
      RETURN_IF_ERROR(ExpectType(field, WireType::kFixed32));
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    } else if (field.number == 3) {
      RETURN_IF_ERROR(ExpectType(field, WireType::kVarint));
      if (field.value < 1 || field.value > 6) {
        return absl::InvalidArgumentError(
            absl::StrFormat("piece type %d, known are 1 to 6", field.value));
      }
      piece.type = static_cast<PieceType>(field.value);
    }
    return absl::OkStatus();
  }));
  return piece;
}

absl::Status ParseTrainerSpec(absl::string_view message, ModelSpec* spec, Vocabulary* vocabulary) {
  return ForEachField(message, [&](const Field& field) -> absl::Status {
    switch (field.number) {
      case 3:
        RETURN_IF_ERROR(ExpectType(field, WireType::kVarint));
        spec->model_type = field.value;
        break;
      case 24: {
        ASSIGN_OR_RETURN(vocabulary->treat_whitespace_as_suffix, Bool(field));
        break;
      }
      case 35: {
        ASSIGN_OR_RETURN(vocabulary->byte_fallback, Bool(field));
        break;
      }
      case 44: {
        ASSIGN_OR_RETURN(vocabulary->unk_surface, String(field));
        break;
      }
      case 46: {
        ASSIGN_OR_RETURN(spec->bos_piece, String(field));
        break;
      }
      case 47: {
        ASSIGN_OR_RETURN(spec->eos_piece, String(field));
        break;
      }
      case 48: {
        ASSIGN_OR_RETURN(spec->pad_piece, String(field));
        break;
      }
      default:  // fields about the training of the vocabulary
        break;
    }
    return absl::OkStatus();
  });
}

// INVALID_ARGUMENT if the field, the character map of the normaliser or denormaliser, is not empty.
absl::Status RejectCharacterMap(const Field& field) {
  RETURN_IF_ERROR(ExpectType(field, WireType::kBytes));
  if (field.bytes.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "has a character map of %d bytes (precompiled_charsmap); supported are models that leave the "
      "text's characters alone (normalization rule 'identity')",
      field.bytes.size()));
}

absl::Status ParseNormalizerSpec(absl::string_view message, Vocabulary* vocabulary) {
  return ForEachField(message, [&](const Field& field) -> absl::Status {
    if (field.number == 2) return RejectCharacterMap(field);
    if (field.number == 3) {
      ASSIGN_OR_RETURN(vocabulary->add_dummy_prefix, Bool(field));
    } else if (field.number == 4) {
      ASSIGN_OR_RETURN(vocabulary->remove_extra_whitespaces, Bool(field));
    } else if (field.number == 5) {
      ASSIGN_OR_RETURN(vocabulary->escape_whitespaces, Bool(field));
    }
    return absl::OkStatus();
  });
}

absl::Status ParseModelField(const Field& field, ModelSpec* spec, Vocabulary* vocabulary) {
  if (field.number < 1 || field.number > 5) return absl::OkStatus();
  RETURN_IF_ERROR(ExpectType(field, WireType::kBytes));
  switch (field.number) {
    case 1: {
      const auto n_pieces = static_cast<int64_t>(vocabulary->pieces.size());
      if (n_pieces == kMaxVocabularyPieces) {
        return absl::InvalidArgumentError(
            absl::StrFormat("more than %d pieces", kMaxVocabularyPieces));
      }
      absl::StatusOr<Piece> piece = ParsePiece(field.bytes);
      RETURN_IF_ERROR(Annotate(piece.status(), absl::StrCat("piece ", n_pieces)));
      vocabulary->pieces.push_back(*std::move(piece));
      return absl::OkStatus();
    }
    case 2:
      return Annotate(ParseTrainerSpec(field.bytes, spec, vocabulary), "trainer_spec");
    case 3:
      return Annotate(ParseNormalizerSpec(field.bytes, vocabulary), "normalizer_spec");
    case 5:
      return Annotate(ForEachField(field.bytes,
                                   [](const Field& inner) {
                                     return inner.number == 2 ? RejectCharacterMap(inner)
                                                              : absl::OkStatus();
                                   }),
                      "denormalizer_spec");
    default:  // self-test samples
      return absl::OkStatus();
  }
}

// Sets the special ids as SentencePiece does: the unknown piece is found by its type, the others by
// their name among the control pieces.
void FindSpecialIds(const ModelSpec& spec, Vocabulary* vocabulary) {
  vocabulary->unk_id = -1;
  for (size_t i = 0; i < vocabulary->pieces.size(); ++i) {
    const Piece& piece = vocabulary->pieces[i];
    const auto id = static_cast<int32_t>(i);
    if (piece.type == PieceType::kUnknown && vocabulary->unk_id == -1) vocabulary->unk_id = id;
    if (piece.type != PieceType::kControl) continue;
    if (piece.text == spec.bos_piece) vocabulary->bos_id = id;
    if (piece.text == spec.eos_piece) vocabulary->eos_id = id;
    if (piece.text == spec.pad_piece) vocabulary->pad_id = id;
  }
}

// The name of TrainerSpec.model_type, for messages.
std::string ModelTypeName(uint64_t model_type) {
  constexpr const char* kNames[] = {"UNIGRAM", "BPE", "WORD", "CHAR"};
  if (model_type < 1 || model_type > 4) return absl::StrCat("number ", model_type);
  return kNames[model_type - 1];
}

}  // namespace

absl::StatusOr<Vocabulary> ParseSentencePieceModel(absl::string_view bytes) {
  ModelSpec spec;
  Vocabulary vocabulary;
  RETURN_IF_ERROR(Annotate(
      ForEachField(bytes,
                   [&](const Field& field) { return ParseModelField(field, &spec, &vocabulary); }),
      "tokenizer model"));
  if (spec.model_type != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer model: model type is ", ModelTypeName(spec.model_type), ", supported is BPE"));
  }
  FindSpecialIds(spec, &vocabulary);
  return vocabulary;
}

absl::StatusOr<Vocabulary> LoadSentencePieceModel(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    const int error = errno;
    const std::string message = absl::StrCat(path, ": ", std::strerror(error));
    return error == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
  }
  if (!S_ISREG(status.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is no regular file"));
  }
  if (status.st_size > kMaxTokenizerModelBytes) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: has %d bytes, supported are %d", path,
                                                      status.st_size, kMaxTokenizerModelBytes));
  }
  std::string bytes(static_cast<size_t>(status.st_size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: cannot read its %d bytes", path, bytes.size()));
  }
  if (IsGitLfsPointer(bytes)) return Annotate(GitLfsPointerError(), path);
  absl::StatusOr<Vocabulary> vocabulary = ParseSentencePieceModel(bytes);
  RETURN_IF_ERROR(Annotate(vocabulary.status(), path));
  return vocabulary;
}

}  // namespace bora
