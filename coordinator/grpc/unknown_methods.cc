#include "coordinator/grpc/unknown_methods.h"

#include <grpcpp/support/status.h>

#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "model/protocol/peer_text.h"

namespace bora {
namespace {

// Ends a call at once with UNIMPLEMENTED and the reason. Deletes itself in OnDone.
class Refusal final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Refusal(const std::string& reason) {
    Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED, reason));
  }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerGenericBidiReactor* UnknownMethods::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  if (!absl::StartsWith(context->method(), other_prefix_)) {
    return new Refusal(
        absl::StrCat("this server has no method ", PeerText(context->method(), kMaxPeerNameBytes)));
  }
  if (const std::optional<int64_t> n_left_out = log_rate_.Take(); n_left_out.has_value()) {
    LogWarning("call on the wrong port",
               {{"peer", context->peer()}, {"reason", hint_}, {"left_out", *n_left_out}});
  }
  return new Refusal(hint_);
}

}  // namespace bora
