// The commands `bora tokenize` and `bora detokenize`.
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/call.h"
#include "client/commands.h"
#include "client/text.h"

namespace bora {

namespace pb = inference::v1;

int RunTokenize(const GlobalOptions& global, const TokenizeOptions& options) {
  Client client(global.server);
  pb::TokenizeRequest request;
  for (const std::string& text : options.texts) request.add_texts(text);
  request.set_add_bos_token(!options.no_bos);
  // The quoted pieces are made from the bytes of tokens: a token may be a part of a character.
  request.set_token_bytes(true);
  pb::TokenizeResponse response;
  CallScope call(global);
  const grpc::Status status = client.inference().Tokenize(call.get(), request, &response);
  if (!status.ok()) return Report(global, status);
  if (global.json) {
    PrintJson(response);
    return kExitOk;
  }
  for (const pb::Tokenization& result : response.results()) {
    // The ids with blanks between them, then a tab, then the pieces with blanks between them.
    std::string line = absl::StrJoin(result.token_ids(), " ");
    if (!options.ids_only) {
      for (const std::string& piece : result.token_bytes()) {
        absl::StrAppend(&line, &piece == &result.token_bytes(0) ? "\t" : " ", Quoted(piece));
      }
    }
    std::cout << line << "\n";
  }
  return kExitOk;
}

int RunDetokenize(const GlobalOptions& global, const std::vector<int32_t>& ids) {
  Client client(global.server);
  pb::DetokenizeRequest request;
  request.add_inputs()->mutable_ids()->Add(ids.begin(), ids.end());
  pb::DetokenizeResponse response;
  CallScope call(global);
  const grpc::Status status = client.inference().Detokenize(call.get(), request, &response);
  if (!status.ok()) return Report(global, status);
  if (global.json) {
    PrintJson(response);
    return kExitOk;
  }
  for (const std::string& text : response.texts()) std::cout << text << "\n";
  return kExitOk;
}

}  // namespace bora
