// Only peers that both have the credential believe each other, and the credential is in no message.
#include "model/protocol/worker_auth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bora {
namespace {

namespace pb = worker::v1alpha1;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kSecret[] = "a secret of some length";

std::string Reason(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  return std::string(status.message());
}

TEST(WorkerAuthTest, BelievesWhoHasTheCredentialAndNeverSendsIt) {
  const CoordinatorAuth coordinator(kSecret);
  WorkerAuth worker(kSecret);
  const pb::AuthChallenge challenge = coordinator.Challenge();
  const auto response = worker.Respond(challenge);
  ASSERT_TRUE(response.ok());
  const auto confirmation = coordinator.Check(*response);
  ASSERT_TRUE(confirmation.ok()) << confirmation.status();
  EXPECT_TRUE(worker.Check(*confirmation).ok());
  for (const std::string& bytes : {challenge.SerializeAsString(), response->SerializeAsString(),
                                   confirmation->SerializeAsString()}) {
    EXPECT_THAT(bytes, Not(HasSubstr(kSecret)));
    EXPECT_LT(bytes.size(), 100u);
  }
}

TEST(WorkerAuthTest, TellsAWrongCredentialFromAnAbsentOne) {
  for (const auto& [ours, theirs, reason] :
       {std::tuple(kSecret, "another secret, as long", "worker credential is wrong"),
        std::tuple(kSecret, "", "worker credential is absent"),
        std::tuple("", kSecret, "the coordinator has none")}) {
    const CoordinatorAuth coordinator(ours);
    WorkerAuth worker(theirs);
    const auto response = worker.Respond(coordinator.Challenge());
    ASSERT_TRUE(response.ok());
    EXPECT_THAT(Reason(coordinator.Check(*response).status()), HasSubstr(reason));
  }
}

TEST(WorkerAuthTest, GivesNobodyAProofWhoHasNoCredential) {
  WorkerAuth worker(kSecret);
  const auto response = worker.Respond(CoordinatorAuth("").Challenge());
  ASSERT_TRUE(response.ok());
  EXPECT_TRUE(response->has_credential());
  EXPECT_EQ(response->proof(), "");
  // Not even one that goes on as if there were none.
  EXPECT_THAT(Reason(worker.Check(pb::AuthConfirmation())), HasSubstr("did not prove"));
}

TEST(WorkerAuthTest, NeedsNoneWhereNobodyHasOne) {
  const CoordinatorAuth coordinator("");
  WorkerAuth worker("");
  const auto response = worker.Respond(coordinator.Challenge());
  ASSERT_TRUE(response.ok());
  const auto confirmation = coordinator.Check(*response);
  ASSERT_TRUE(confirmation.ok());
  EXPECT_TRUE(worker.Check(*confirmation).ok());
}

TEST(WorkerAuthTest, RefusesReplaysAndReflections) {
  const CoordinatorAuth first(kSecret);
  const CoordinatorAuth second(kSecret);
  WorkerAuth worker(kSecret);
  const auto response = worker.Respond(first.Challenge());
  ASSERT_TRUE(response.ok());
  EXPECT_THAT(Reason(second.Check(*response).status()), HasSubstr("is wrong"));
  // The worker's own proof, sent back as if it were the coordinator's.
  pb::AuthConfirmation reflected;
  reflected.set_proof(response->proof());
  EXPECT_FALSE(worker.Check(reflected).ok());
  // The coordinator's confirmation of one worker, to another.
  const auto confirmation = first.Check(*response);
  ASSERT_TRUE(confirmation.ok());
  WorkerAuth other(kSecret);
  ASSERT_TRUE(other.Respond(first.Challenge()).ok());
  EXPECT_FALSE(other.Check(*confirmation).ok());
}

TEST(WorkerAuthTest, OpensTheGateToTheCredentialOnly) {
  const CoordinatorAuth coordinator(kSecret);
  const std::string gate = WorkerAuth(kSecret).Gate();
  EXPECT_EQ(gate.size(), 64u);
  EXPECT_TRUE(coordinator.CheckGate(gate).ok());
  EXPECT_THAT(Reason(coordinator.CheckGate("")), HasSubstr("is absent"));
  EXPECT_THAT(Reason(coordinator.CheckGate(WorkerAuth("another secret, as long").Gate())),
              HasSubstr("is wrong"));
  for (size_t n = 1; n < gate.size(); ++n) EXPECT_FALSE(coordinator.CheckGate(gate.substr(n)).ok());
  EXPECT_THAT(Reason(CoordinatorAuth("").CheckGate(gate)), HasSubstr("the coordinator has none"));
  EXPECT_EQ(WorkerAuth("").Gate(), "");
  EXPECT_TRUE(CoordinatorAuth("").CheckGate("").ok());
  // It is no proof of the challenge: it was not made for it.
  pb::AuthResponse response;
  response.set_has_credential(true);
  response.set_nonce(gate.substr(0, 32));
  response.set_proof(gate.substr(32));
  EXPECT_FALSE(coordinator.Check(response).ok());
}

TEST(WorkerAuthTest, RefusesNoncesAndProofsOfOtherLengths) {
  const CoordinatorAuth coordinator(kSecret);
  WorkerAuth worker(kSecret);
  for (const size_t n : {0, 31, 33, 1 << 20}) {
    pb::AuthChallenge challenge = coordinator.Challenge();
    challenge.set_nonce(std::string(n, 'n'));
    EXPECT_EQ(worker.Respond(challenge).status().code(), absl::StatusCode::kInvalidArgument);
    pb::AuthResponse response = *worker.Respond(coordinator.Challenge());
    response.set_nonce(std::string(n, 'n'));
    EXPECT_FALSE(coordinator.Check(response).ok());
    response = *worker.Respond(coordinator.Challenge());
    response.set_proof(std::string(n, 'p'));
    EXPECT_FALSE(coordinator.Check(response).ok());
  }
}

}  // namespace
}  // namespace bora
