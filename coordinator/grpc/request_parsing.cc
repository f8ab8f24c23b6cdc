#include "coordinator/grpc/request_parsing.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "coordinator/api/api_errors.h"
#include "coordinator/api/api_limits.h"
#include "coordinator/api/violations.h"
#include "coordinator/grpc/request_compression.h"

namespace bora {
namespace {

namespace pb = google::protobuf;

// Turns the string fields of the message and of its nested messages into bytes fields. Both have
// the same form on the wire, but a parser does not check bytes for UTF-8.
void StringsToBytes(pb::DescriptorProto* message) {
  for (pb::FieldDescriptorProto& field : *message->mutable_field()) {
    if (field.type() == pb::FieldDescriptorProto::TYPE_STRING) {
      field.set_type(pb::FieldDescriptorProto::TYPE_BYTES);
    }
  }
  for (pb::DescriptorProto& nested : *message->mutable_nested_type()) StringsToBytes(&nested);
}

// Adds the file and its imports to `pool`, with bytes fields in place of string fields.
void AddWithoutStrings(const pb::FileDescriptor& file, pb::DescriptorPool* pool) {
  if (pool->FindFileByName(file.name()) != nullptr) return;
  for (int i = 0; i < file.dependency_count(); ++i) AddWithoutStrings(*file.dependency(i), pool);
  pb::FileDescriptorProto proto;
  file.CopyTo(&proto);
  for (pb::DescriptorProto& message : *proto.mutable_message_type()) StringsToBytes(&message);
  pool->BuildFile(proto);
}

// Adds a violation for each field of `message` that `original` declares as a string and that is not
// UTF-8, until *n_found is Violations::kMaxPerList. `prefix`: the path of `message` in the request,
// with a dot at its end, or empty.
void FindInvalidUtf8(const pb::Message& message, const pb::Descriptor& original,
                     const std::string& prefix, int* n_found, Violations* violations) {
  const pb::Reflection& reflection = *message.GetReflection();
  std::vector<const pb::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const pb::FieldDescriptor* field : fields) {
    const bool was_string =
        original.FindFieldByNumber(field->number())->type() == pb::FieldDescriptor::TYPE_STRING;
    const bool is_message = field->cpp_type() == pb::FieldDescriptor::CPPTYPE_MESSAGE;
    if (!was_string && !is_message) continue;
    const int n_values = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < n_values && *n_found < Violations::kMaxPerList; ++i) {
      const std::string path = absl::StrCat(prefix, field->name(),
                                            field->is_repeated() ? absl::StrCat("[", i, "]") : "");
      if (is_message) {
        const pb::Message& child = field->is_repeated()
                                       ? reflection.GetRepeatedMessage(message, field, i)
                                       : reflection.GetMessage(message, field);
        FindInvalidUtf8(child, *original.FindFieldByNumber(field->number())->message_type(),
                        path + ".", n_found, violations);
        continue;
      }
      const std::string value = field->is_repeated()
                                    ? reflection.GetRepeatedString(message, field, i)
                                    : reflection.GetString(message, field);
      if (IsValidUtf8(value)) continue;
      ++*n_found;
      violations->AddInvalid(path, absl::StrCat(value.size(), " bytes that are not UTF-8"),
                             "valid UTF-8");
    }
  }
}

}  // namespace

std::optional<ApiError> ParseRequest(const grpc::ByteBuffer& bytes, pb::Message* message) {
  if (bytes.Length() > kMaxMessageBytes) {
    return MessageTooLarge(static_cast<int64_t>(bytes.Length()), /*exact=*/true);
  }
  grpc::ByteBuffer plain(bytes);  // shares the memory of `bytes`
  if (IsGzip(plain)) {
    if (std::optional<ApiError> error = Inflate(kMaxMessageBytes, &plain)) return error;
  }
  grpc::ByteBuffer copy(plain);  // parsing consumes its buffer
  if (grpc::SerializationTraits<pb::Message>::Deserialize(&copy, message).ok()) {
    return std::nullopt;
  }
  grpc::Slice slice;
  if (!plain.DumpToSingleSlice(&slice).ok()) {
    return DiagnoseUnparsable("", *message);
  }
  return DiagnoseUnparsable(
      absl::string_view(reinterpret_cast<const char*>(slice.begin()), slice.size()), *message);
}

bool TakesLong(const grpc::ByteBuffer& bytes) {
  constexpr size_t kMaxInlineRequestBytes = 16 << 10;
  if (bytes.Length() > kMaxMessageBytes) return false;
  return bytes.Length() > kMaxInlineRequestBytes || IsGzip(bytes);
}

ApiError DiagnoseUnparsable(absl::string_view bytes, const pb::Message& message) {
  const pb::Descriptor& original = *message.GetDescriptor();
  // Parses once more by a copy of the message's type whose strings are bytes: if that succeeds,
  // only UTF-8 was at fault, and the parsed message shows where.
  pb::DescriptorPool pool;
  AddWithoutStrings(*original.file(), &pool);
  pb::DynamicMessageFactory factory(&pool);
  std::unique_ptr<pb::Message> lenient(
      factory.GetPrototype(pool.FindMessageTypeByName(original.full_name()))->New());
  Violations violations;
  int n_found = 0;
  if (lenient->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    FindInvalidUtf8(*lenient, original, "", &n_found, &violations);
  }
  if (violations.empty()) {
    violations.AddInvalid("(message)", absl::StrCat(bytes.size(), " bytes"),
                          absl::StrCat("a ", original.full_name()));
  }
  return violations.TakeError();
}

}  // namespace bora
