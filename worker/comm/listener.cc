#include "worker/comm/listener.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/comm/abort_signal.h"
#include "worker/comm/acceptor.h"
#include "worker/comm/link/socket_util.h"
#include "worker/comm/mesh.h"
#include "worker/comm/mesh_builder.h"

namespace bora {
namespace {

bool IsWildcard(const std::string& address) { return address == "0.0.0.0" || address == "::"; }

}  // namespace

class Listener::Impl {
 public:
  Impl(Endpoint endpoint, AcceptorOptions options) : endpoint_(std::move(endpoint)) {
    options.find_rendezvous = [this](int64_t epoch, int rank) { return Find(epoch, rank); };
    acceptor_ = std::make_unique<Acceptor>(std::move(options));
  }
  ~Impl() {
    // Ends the accepting thread, which calls Find.
    acceptor_.reset();
    const std::lock_guard<std::mutex> lock(mutex_);
    CHECK(rendezvous_.empty()) << "a Connect call is still running";
  }

  const Endpoint& endpoint() const { return endpoint_; }
  int64_t n_refused() const { return acceptor_->n_refused(); }

  // Lets the acceptor find a Connect call, and AbortEpochsBefore its future Mesh. ABORTED if the
  // epoch is over; INVALID_ARGUMENT if the same rank is being connected in the same epoch already.
  absl::Status Register(const MeshBuilder& builder) {
    const RendezvousTerms& terms = builder.rendezvous()->terms();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (terms.epoch < min_epoch_) {
      return absl::AbortedError(
          absl::StrCat("epoch ", terms.epoch, " is over: ", abort_reason_.message()));
    }
    for (const auto& other : rendezvous_) {
      if (other->terms().epoch == terms.epoch && other->terms().my_rank == terms.my_rank) {
        return absl::InvalidArgumentError(absl::StrCat("rank ", terms.my_rank, " of epoch ",
                                                       terms.epoch, " is already being connected"));
      }
    }
    rendezvous_.push_back(builder.rendezvous());
    // Signals of meshes that are gone are removed here, so that the list does not grow.
    abort_signals_.erase(
        std::remove_if(abort_signals_.begin(), abort_signals_.end(),
                       [](const EpochSignal& entry) { return entry.signal.expired(); }),
        abort_signals_.end());
    abort_signals_.push_back({terms.epoch, builder.abort_signal()});
    return absl::OkStatus();
  }

  // The acceptor finds the Connect call no longer. The abort signal stays, because the Mesh has it.
  void Unregister(const std::shared_ptr<Rendezvous>& rendezvous) {
    rendezvous->Close();
    const std::lock_guard<std::mutex> lock(mutex_);
    rendezvous_.erase(std::remove(rendezvous_.begin(), rendezvous_.end(), rendezvous),
                      rendezvous_.end());
  }

  void AbortEpochsBefore(int64_t epoch, const absl::Status& reason) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (epoch <= min_epoch_) return;
    min_epoch_ = epoch;
    abort_reason_ = reason;
    for (const EpochSignal& entry : abort_signals_) {
      if (entry.epoch >= epoch) continue;
      if (const std::shared_ptr<AbortSignal> signal = entry.signal.lock()) signal->Raise(reason);
    }
  }

 private:
  // The abort signal of one Connect call and of the Mesh that it made, both of which may be gone.
  struct EpochSignal {
    int64_t epoch = 0;
    std::weak_ptr<AbortSignal> signal;
  };

  // AcceptorOptions::find_rendezvous.
  std::shared_ptr<Rendezvous> Find(int64_t epoch, int rank) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& rendezvous : rendezvous_) {
      const RendezvousTerms& terms = rendezvous->terms();
      if (terms.epoch == epoch && terms.my_rank == rank) return rendezvous;
    }
    return nullptr;
  }

  const Endpoint endpoint_;
  std::mutex mutex_;
  // Epochs below this one are over, because of abort_reason_.
  int64_t min_epoch_ ABSL_GUARDED_BY(mutex_) = std::numeric_limits<int64_t>::min();
  absl::Status abort_reason_ ABSL_GUARDED_BY(mutex_);
  // Of the Connect calls that are under way.
  std::vector<std::shared_ptr<Rendezvous>> rendezvous_ ABSL_GUARDED_BY(mutex_);
  std::vector<EpochSignal> abort_signals_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Acceptor> acceptor_;
};

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(const ListenerOptions& options) {
  const std::string& advertised =
      options.advertise_address.empty() ? options.bind_address : options.advertise_address;
  if (IsWildcard(advertised)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "peers cannot reach ", advertised, ": advertise_address must be an address of this host"));
  }
  const std::string bind_to = JoinHostPort(options.bind_address, 0);
  ASSIGN_OR_RETURN(const SocketAddress tcp_address, ParseTcpAddress(bind_to));
  RETURN_IF_ERROR(ParseTcpAddress(JoinHostPort(advertised, 0)).status());

  AcceptorOptions acceptor;
  acceptor.handshake_timeout = options.handshake_timeout;
  absl::StatusOr<UniqueFd> tcp_listener = ListenOn(tcp_address);
  RETURN_IF_ERROR(Annotate(tcp_listener.status(), absl::StrCat("listen on ", bind_to)));
  acceptor.tcp_listener = *std::move(tcp_listener);
  ASSIGN_OR_RETURN(const int port, LocalPort(acceptor.tcp_listener.get()));

  Endpoint endpoint;
  ASSIGN_OR_RETURN(endpoint.host_id, LocalHostId());
  endpoint.tcp_address = JoinHostPort(advertised, port);
  // The name has a random part, because process ids repeat in other pid namespaces and after reuse.
  const Nonce nonce = RandomNonce();
  endpoint.unix_name = absl::StrCat(
      "bora-comm-", getpid(), "-",
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(nonce.data()), 8)));
  ASSIGN_OR_RETURN(const SocketAddress unix_address, AbstractUnixAddress(endpoint.unix_name));
  absl::StatusOr<UniqueFd> unix_listener = ListenOn(unix_address);
  RETURN_IF_ERROR(
      Annotate(unix_listener.status(), absl::StrCat("listen on @", endpoint.unix_name)));
  acceptor.unix_listener = *std::move(unix_listener);
  ASSIGN_OR_RETURN(acceptor.stop_event, NewEventFd());
  return std::unique_ptr<Listener>(
      new Listener(std::make_unique<Impl>(std::move(endpoint), std::move(acceptor))));
}

Listener::Listener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Listener::~Listener() = default;

const Endpoint& Listener::endpoint() const { return impl_->endpoint(); }

int64_t Listener::n_refused() const { return impl_->n_refused(); }

absl::StatusOr<std::unique_ptr<Mesh>> Listener::Connect(const MeshOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MeshBuilder> builder, MeshBuilder::Create(options));
  RETURN_IF_ERROR(impl_->Register(*builder));
  absl::StatusOr<std::unique_ptr<Mesh>> mesh = builder->Build();
  impl_->Unregister(builder->rendezvous());
  return mesh;
}

void Listener::AbortEpochsBefore(int64_t epoch, const absl::Status& reason) {
  impl_->AbortEpochsBefore(epoch, reason);
}

}  // namespace bora
