#include "coordinator/grpc/inference_service.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/grpc/generate_reactors.h"
#include "coordinator/grpc/unary_reactor.h"

namespace bora {
namespace {

namespace v1 = inference::v1;

// Fills the response with the token ids of each text, and their bytes if the request asks for them.
// A text of 1 MiB takes about 0.3 s, and a request has many: before each text it is checked whether
// the client still waits.
std::optional<ApiError> Tokenize(const RequestValidator& validator,
                                 const grpc::CallbackServerContext& context,
                                 const v1::TokenizeRequest& request,
                                 v1::TokenizeResponse* response) {
  if (std::optional<ApiError> error = validator.Check(request)) return error;
  const Tokenizer& tokenizer = validator.tokenizer();
  const bool add_bos =
      (!request.has_add_bos_token() || request.add_bos_token()) && tokenizer.bos_id() >= 0;
  for (const std::string& text : request.texts()) {
    if (context.IsCancelled()) break;
    v1::Tokenization* result = response->add_results();
    if (add_bos) result->add_token_ids(tokenizer.bos_id());
    const std::vector<int32_t> ids = tokenizer.Encode(text);
    result->mutable_token_ids()->Add(ids.begin(), ids.end());
    if (!request.token_bytes()) continue;
    for (const int32_t id : result->token_ids()) {
      const absl::string_view bytes = tokenizer.TokenBytes(id);
      result->add_token_bytes(bytes.data(), bytes.size());
    }
  }
  return std::nullopt;
}

// Fills the response with the text of each list of ids.
std::optional<ApiError> Detokenize(const RequestValidator& validator,
                                   const grpc::CallbackServerContext& context,
                                   const v1::DetokenizeRequest& request,
                                   v1::DetokenizeResponse* response) {
  if (std::optional<ApiError> error = validator.Check(request)) return error;
  for (const v1::TokenIds& input : request.inputs()) {
    if (context.IsCancelled()) break;
    response->add_texts(
        validator.tokenizer().Decode(absl::MakeConstSpan(input.ids().data(), input.ids().size())));
  }
  return std::nullopt;
}

}  // namespace

grpc::ServerUnaryReactor* InferenceServiceImpl::Generate(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return StartGenerate(context, *request, response, services_);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceServiceImpl::GenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartGenerateStream(context, *request, services_);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return RunUnary<v1::TokenizeRequest, v1::TokenizeResponse>(
      "Tokenize", context, request, response, services_,
      [this, context](const v1::TokenizeRequest& message, v1::TokenizeResponse* answer) {
        return bora::Tokenize(*services_.validator, *context, message, answer);
      });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return RunUnary<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      "Detokenize", context, request, response, services_,
      [this, context](const v1::DetokenizeRequest& message, v1::DetokenizeResponse* answer) {
        return bora::Detokenize(*services_.validator, *context, message, answer);
      });
}

}  // namespace bora
