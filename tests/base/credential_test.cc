// What is accepted as a credential file, and that each refusal says why.
#include "base/auth/credential.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace bora {
namespace {

using ::testing::HasSubstr;

class CredentialTest : public testing::Test {
 protected:
  CredentialTest() {
    char name[] = "/tmp/bora-credential-XXXXXX";
    EXPECT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    path_ = directory_ + "/credential";
  }
  ~CredentialTest() override {
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }

  void Write(const std::string& text, mode_t mode = 0600) {
    std::ofstream(path_) << text;
    EXPECT_EQ(chmod(path_.c_str(), mode), 0);
  }
  absl::StatusOr<std::string> Read() { return ReadCredential("--credential-file", path_); }
  void ExpectRefused(absl::StatusCode code, const std::string& text) {
    const absl::StatusOr<std::string> credential = Read();
    EXPECT_EQ(credential.status().code(), code) << credential.status();
    EXPECT_THAT(std::string(credential.status().message()), HasSubstr(text));
    EXPECT_THAT(std::string(credential.status().message()),
                HasSubstr("--credential-file " + path_));
  }

  std::string directory_;
  std::string path_;
};

TEST_F(CredentialTest, IsTheFirstLineWithoutBlanks) {
  Write("  0123456789abcdef \nsecond line\n");
  EXPECT_EQ(*Read(), "0123456789abcdef");
  Write("0123456789 abcdef");
  EXPECT_EQ(*Read(), "0123456789 abcdef");
}

TEST_F(CredentialTest, TellsMissingFromEmptyFromFolder) {
  ExpectRefused(absl::StatusCode::kNotFound, "No such file or directory");
  Write("");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "is empty");
  Write("\n0123456789abcdef\n");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "has an empty first line");
  unlink(path_.c_str());
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  ExpectRefused(absl::StatusCode::kInvalidArgument, "is a folder");
  rmdir(path_.c_str());
}

TEST_F(CredentialTest, TellsUnreadable) {
  Write("0123456789abcdef\n", 0000);
  // Root reads everything, so it reads as somebody else.
  const uid_t user = geteuid();
  if (user == 0) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  ExpectRefused(absl::StatusCode::kPermissionDenied, "Permission denied");
  ASSERT_EQ(seteuid(user), 0);
}

TEST_F(CredentialTest, MustNotBeReadByOthers) {
  for (const mode_t mode : {0604, 0644, 0602, 0666, 0620, 0444}) {
    Write("0123456789abcdef\n", mode);
    ExpectRefused(absl::StatusCode::kPermissionDenied, "chmod 600");
  }
  for (const mode_t mode : {0600, 0400, 0700}) {
    Write("0123456789abcdef\n", mode);
    EXPECT_TRUE(Read().ok()) << Read().status();
  }
  // As Kubernetes mounts a secret for a group: root's file.
  Write("0123456789abcdef\n", 0440);
  EXPECT_EQ(Read().ok(), geteuid() == 0);
}

TEST_F(CredentialTest, HasALengthThatCannotBeGuessed) {
  Write("x\n");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "the credential has 1 bytes, it needs 16");
  Write(std::string(5000, 'x'));
  ExpectRefused(absl::StatusCode::kInvalidArgument, "more than 4096 bytes");
  Write(std::string(4096, 'x') + "\n");
  EXPECT_EQ(Read()->size(), 4096u);
}

TEST_F(CredentialTest, ComesFromTheEnvironmentWithoutAPath) {
  setenv("BORA_WORKER_CREDENTIAL", "0123456789abcdef", 1);
  EXPECT_EQ(*ReadCredential("--credential-file", ""), "0123456789abcdef");
  setenv("BORA_WORKER_CREDENTIAL", "x", 1);
  EXPECT_THAT(std::string(ReadCredential("--credential-file", "").status().message()),
              HasSubstr("BORA_WORKER_CREDENTIAL: the credential has 1 bytes"));
  unsetenv("BORA_WORKER_CREDENTIAL");
  EXPECT_EQ(*ReadCredential("--credential-file", ""), "");
}

}  // namespace
}  // namespace bora
